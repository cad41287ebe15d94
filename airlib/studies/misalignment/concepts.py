"""Concepts in CLIP space: one mean image embedding and one text embedding each.

Study 1 compares concepts; here they come from. `embed_tiny_world` takes the 114 domains of the tiny
world, `embed_dataset` any data set of `misalignment.datasets`, such as a folder with one sub-folder
of images per class. Images are embedded to unit length *before* they are averaged, and the mean is
not normalised again (AIR section 3.1).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlib.clip_space.embedding_cache import embed_classes
from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.templates import sentences_of
from airlib.errors import AirlibError
from airlib.progress import track
from airlib.seeding import rng as stream
from airlib.studies.misalignment.datasets.folders import open_image_folder
from airlib.studies.misalignment.datasets.sampling import ConceptDataset
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.renderer import render

STYLE_PROMPTS = {
    "photo": "a photo of {}",
    "sketch": "a sketch of {}",
    "cartoon": "a cartoon of {}",
    "pixar": "a pixar render of {}",
    "watercolor": "a watercolor painting of {}",
    "wall painting": "a wall painting of {}",
}
SAME = 1e-6  # distance between two means below which they differ by rounding only
HUMAN_NOUNS = {"adult": "a person", "baby": "a baby", "elderly": "an old person"}


@dataclass(frozen=True)
class ConceptEmbeddings:
    """C concepts in CLIP space, a row each: `image_means` [C, D], means of unit image embeddings,
    and `texts` [C, D], unit text embeddings, both in float64; `labels` name the rows.
    """

    labels: tuple[str, ...]
    image_means: Tensor
    texts: Tensor

    def nearest(self) -> list[str]:
        """The label of the text nearest to the image mean of each concept: ideally its own."""
        cosines = self.image_means @ self.texts.T  # up to the length of the mean
        return [self.labels[row] for row in cosines.argmax(1).tolist()]


def class_prompt(domain: Domain) -> str:
    """The text of a domain of the tiny world, e.g. "a sketch of a baby fox"."""
    noun = f"a baby {domain.species}" if domain.age == "baby" else f"a {domain.species}"
    if domain.species == "human":
        noun = HUMAN_NOUNS[domain.age]
    return STYLE_PROMPTS[domain.style].format(noun)


def embed_tiny_world(
    encoder: ClipEncoder, seed: int = 0, images_per_class: int = 32
) -> ConceptEmbeddings:
    """Embed the 114 domains of the tiny world: `images_per_class` portraits and one text each.

    Every domain shows other sitters (its own latents), drawn with `seed`.
    """
    domains = all_domains()
    means = []
    for domain in track(domains, "embedding the tiny world"):
        latents = torch.randn(
            images_per_class, LATENT_DIM, generator=stream(seed, "misalignment", str(domain))
        )
        means.append(_mean_embedding(encoder, render(latents, domain)))
    return ConceptEmbeddings(
        labels=tuple(str(domain) for domain in domains),
        image_means=torch.stack(means),
        texts=_embed_text(encoder, [class_prompt(domain) for domain in domains]),
    )


def embed_dataset(
    encoder: ClipEncoder,
    dataset: ConceptDataset,
    template: str = "a photo of a {}",
    images_per_class: int = 200,
    fewest_images: int = 1,
    seed: int = 0,
    cache: Path | None = None,
    workers: int = 2,
) -> ConceptEmbeddings:
    """Embed a sample of each class of a data set, in alphabetical order of the labels.

    The text of a class is `template` filled with its label. images_per_class: the most, drawn with
    `seed`; fewest_images: classes with fewer are left out. cache: folder that keeps embeddings,
    None keeps nothing. workers: processes that read images. Unreadable images are skipped, and one
    warning counts them. A class whose images the encoder cannot tell from those of an earlier one
    is left out, with a warning.
    Raises AirlibError for a template without exactly one {}, a label without a word, two classes
    with one text, a class without a single readable image, and fewer than 3 classes.
    """
    classes = dataset.sample(images_per_class, seed, fewest_images)
    texts = _embed_text(encoder, [sentences_of([template], label)[0] for label in classes])
    _require_distinct(tuple(classes), texts)
    means: list[Tensor] = []
    skipped: list[str] = []
    for label, rows in embed_classes(encoder, dataset.name, classes, cache, workers):
        readable = ~np.isnan(rows[:, 0])
        means.append(torch.from_numpy(rows[readable]).double().mean(0))
        pairs = zip(classes[label], readable, strict=True)
        skipped += [item.key for item, good in pairs if not good]
    if skipped:
        total = sum(map(len, classes.values()))
        warnings.warn(
            f"{dataset.name}: skipped {len(skipped)} of {total} images, which cannot be read; the "
            f"first is {skipped[0]}",
            stacklevel=2,
        )
    image_means = torch.stack(means)
    kept = _distinct(image_means)
    labels = tuple(label for row, label in enumerate(classes) if row in set(kept))
    if len(labels) < len(classes):
        warnings.warn(
            f"{dataset.name}: left out {', '.join(sorted(classes.keys() - labels)[:4])}: this CLIP "
            f"cannot tell {len(classes) - len(labels)} of {len(classes)} classes from another",
            stacklevel=2,
        )
    return ConceptEmbeddings(labels, image_means[kept], texts[kept])


def _require_distinct(labels: Sequence[str], texts: Tensor) -> None:
    """Raise AirlibError for two labels with the same text [C, D], before images are embedded."""
    for row in sorted(set(range(len(labels))).difference(_distinct(texts))):
        earlier = int((texts[:row] - texts[row]).norm(dim=1).argmin())
        raise AirlibError(
            f"CLIP reads the same text for the classes {labels[earlier]!r} and {labels[row]!r} "
            "(it ignores case); merge them or call one otherwise"
        )


def _distinct(means: Tensor) -> list[int]:
    """The rows of [C, D] that no earlier row equals: no offset leads from a concept to itself."""
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    same = (distances < SAME).tril(-1).any(dim=1)
    return (~same).nonzero().flatten().tolist()


def embed_image_folder(
    encoder: ClipEncoder,
    folder: str | Path,
    names: Mapping[str, str] | None = None,
    **options: Any,
) -> ConceptEmbeddings:
    """Embed a folder of your own with a sub-folder of images per class (`folder/CLASS/*.jpg`).

    A class is called as its sub-folder, or names[sub-folder]. options: keyword arguments of
    `embed_dataset`, which see for the errors.
    """
    return embed_dataset(encoder, open_image_folder(Path(folder), names), **options)


@torch.no_grad()
def _mean_embedding(encoder: ClipEncoder, images: Tensor) -> Tensor:
    """Mean of the unit embeddings of [B, 3, H, W], [D] in float64, on the CPU."""
    return encoder.embed_images(images).double().mean(0).cpu()


@torch.no_grad()
def _embed_text(encoder: ClipEncoder, texts: list[str]) -> Tensor:
    return encoder.embed_text(texts).double().cpu()
