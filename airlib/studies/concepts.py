"""Concepts in CLIP space: one mean image embedding and one text embedding each.

Study 1 compares concepts; here they come from. `embed_tiny_world` takes the 114 domains of the tiny
world, `embed_image_folder` any folder with one sub-folder of images per class. Images are embedded
to unit length *before* they are averaged, and the mean is not normalised again (AIR section 3.1).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder
from airlib.errors import AirlibError
from airlib.progress import track
from airlib.seeding import rng as stream
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.renderer import render

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
FEWEST_CLASSES = 3
STYLE_PROMPTS = {
    "photo": "a photo of {}",
    "sketch": "a sketch of {}",
    "cartoon": "a cartoon of {}",
    "pixar": "a pixar render of {}",
    "watercolor": "a watercolor painting of {}",
    "wall painting": "a wall painting of {}",
}
HUMAN_NOUNS = {"adult": "a person", "baby": "a baby", "elderly": "an old person"}


@dataclass(frozen=True)
class ConceptEmbeddings:
    """One row per concept: `image_means` [C, D] and `texts` [C, D]; `labels` name the rows."""

    labels: tuple[str, ...]
    image_means: Tensor
    texts: Tensor


def class_prompt(domain: Domain) -> str:
    """The text of a domain, e.g. "a sketch of a baby fox"."""
    noun = f"a baby {domain.species}" if domain.age == "baby" else f"a {domain.species}"
    if domain.species == "human":
        noun = HUMAN_NOUNS[domain.age]
    return STYLE_PROMPTS[domain.style].format(noun)


def embed_tiny_world(
    encoder: ClipEncoder, seed: int = 0, images_per_class: int = 32
) -> ConceptEmbeddings:
    """Embed all 114 domains; every domain shows other sitters (its own latents)."""
    domains = all_domains()
    means = []
    for domain in track(domains, "embedding the tiny world"):
        latents = torch.randn(
            images_per_class, LATENT_DIM, generator=stream(seed, "misalignment", str(domain))
        )
        means.append(_mean_embedding(encoder, iter([render(latents, domain)])))
    return ConceptEmbeddings(
        labels=tuple(str(domain) for domain in domains),
        image_means=torch.stack(means),
        texts=_embed_text(encoder, [class_prompt(domain) for domain in domains]),
    )


def embed_image_folder(
    encoder: ClipEncoder,
    folder: str | Path,
    template: str = "a photo of a {}",
    names: Mapping[str, str] | None = None,
    images_per_class: int = 200,
) -> ConceptEmbeddings:
    """Embed `folder/CLASS/*.jpg` and the like, in alphabetical order, EXIF orientation applied.

    The text of a class is `template` filled with its folder's name (underscores become spaces) or
    with `names[folder name]`. At most `images_per_class` images of each class are read.
    Raises AirlibError for fewer than 3 class folders, one without images, or a damaged image.
    """
    if "{}" not in template:
        raise AirlibError(f'the template {template!r} has no "{{}}" to put the class name in')
    classes = _class_folders(Path(folder))
    labels = [(names or {}).get(entry.name, entry.name.replace("_", " ")) for entry in classes]
    means = [
        _mean_embedding(encoder, _batches(_image_files(entry)[:images_per_class]))
        for entry in track(classes, "embedding image folders")
    ]
    return ConceptEmbeddings(
        labels=tuple(labels),
        image_means=torch.stack(means),
        texts=_embed_text(encoder, [template.format(label) for label in labels]),
    )


def read_image(path: Path) -> Tensor:
    """One image file -> [3, H, W] in [-1, 1], upright, RGB. Raises AirlibError if unreadable."""
    try:
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AirlibError(
            f"cannot read the image {path.parent.name}/{path.name} ({error}); replace or remove it"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise AirlibError(f"no such folder: {folder}; give one with a sub-folder per class")
    classes = sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    if len(classes) < FEWEST_CLASSES:
        raise AirlibError(
            f"{folder} has {len(classes)} class folders; offsets between classes need at least "
            f"{FEWEST_CLASSES}, each a sub-folder with images"
        )
    return classes


def _image_files(folder: Path) -> list[Path]:
    files = sorted(e for e in folder.iterdir() if e.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise AirlibError(f"class folder {folder.name} holds no images ({kinds}); add some")
    return files


def _batches(files: list[Path], size: int = 32) -> Iterator[Tensor]:
    """Images in order, stacked as long as neighbours have the same size."""
    waiting: list[Tensor] = []
    for image in map(read_image, files):
        if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.stack(waiting)


@torch.no_grad()
def _mean_embedding(encoder: ClipEncoder, batches: Iterator[Tensor]) -> Tensor:
    """Mean of the unit embeddings of all images, [D] in float64."""
    return torch.cat([encoder.embed_images(batch).double() for batch in batches]).mean(0)


@torch.no_grad()
def _embed_text(encoder: ClipEncoder, texts: list[str]) -> Tensor:
    return encoder.embed_text(texts).double()
