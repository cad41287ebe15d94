"""The one protocol every method is scored by: same latents, same references, same judge.

    reference = Reference.of(judges, encoder, batches_of_true_images, paired_truth)
    metrics = evaluate(world.draw(adapted, 300), reference, "human-baby", "air", seed=0)

Against the whole target domain: Frechet distances in the features of two judges of different
architecture, and CLIP distance. Against the true target of the *same* latent, which only the tiny
world can draw: paired feature distance, paired L1, and paired edge L1, in which colours that are
right on average do not help. On the set alone: diversity, the mean perceptual distance between two
of its images. Images come in batches and each is embedded once, so sets larger than the memory can
be scored. A world without judges or true targets has fewer metrics.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.intervals import frechet_bootstrap, mean_bootstrap
from airlib.evaluation.perceptual import (
    PerceptualEmbedding,
    mean_pairwise_distance,
    paired_edge_l1,
    paired_l1,
)
from airlib.results import Metric
from airlib.seeding import rng
from airlib.tinyworld.judge import Judge

LABELS = {  # metric -> column title, with the direction that is better
    "frechet": "Frechet distance (judge) ↓",
    "frechet_vit": "Frechet distance (second judge) ↓",
    "paired_feature": "paired feature distance ↓",
    "paired_l1": "paired L1 ↓",
    "paired_edge": "paired edge L1 ↓",
    "clip_distance": "CLIP distance ↓",
    "diversity": "diversity ↑",
}


def labels_of(metrics: Iterable[Metric]) -> dict[str, str]:
    """The part of `LABELS` that these metrics have values of."""
    names = {metric.name for metric in metrics}
    return {name: title for name, title in LABELS.items() if name in names}


@dataclass(frozen=True)
class Reference:
    """A target domain as the metrics see it."""

    judges: tuple[Judge, ...]  # the first also gives the perceptual distances
    encoder: ClipEncoder
    features: tuple[Tensor, ...]  # per judge, features [M, F] of true target images
    clip: Tensor  # CLIP embeddings [M, D] of the same
    truth: Tensor | None  # images [P, 3, H, W]: the true targets of the first P latents

    @classmethod
    def of(
        cls, judges: Sequence[Judge], encoder: ClipEncoder, images: Iterable[Tensor],
        truth: Tensor | None = None,
    ) -> "Reference":  # fmt: skip
        """Embed true target images once; they come in batches [B, 3, H, W]."""
        seen = _see(images, judges, encoder)
        return cls(tuple(judges), encoder, seen.features, seen.clip, truth)

    def protocol(self, what: str, generated: int) -> str:
        """How a value was made, in words."""
        return f"{what}; {generated} generated, {len(self.clip)} true target images"


@dataclass(frozen=True)
class _Seen:
    """A set of N images: features [N, F] per judge, CLIP embeddings [N, D], the first images."""

    features: tuple[Tensor, ...]
    clip: Tensor
    first: Tensor


@torch.no_grad()
def _see(
    batches: Iterable[Tensor], judges: Sequence[Judge], encoder: ClipEncoder, keep: int = 0
) -> _Seen:
    features, clip, first, kept = [[] for _ in judges], [], [], 0
    for batch in batches:
        images = batch.clamp(-1, 1)  # as in a saved picture
        for collected, judge in zip(features, judges, strict=True):
            collected.append(judge.features(images))
        clip.append(encoder.embed_images(images).cpu())
        first.append(images[: keep - kept])
        kept += len(first[-1])
    return _Seen(tuple(map(torch.cat, features)), torch.cat(clip), torch.cat(first))


def evaluate(
    batches: Iterable[Tensor], reference: Reference,
    pair: str | None = None, method: str | None = None, seed: int | None = None,
) -> list[Metric]:  # fmt: skip
    """All metrics of images that belong to the reference's latents, in order.

    They come in batches [B, 3, H, W].
    """
    paired = 0 if reference.truth is None else len(reference.truth)
    seen = _see(batches, reference.judges, reference.encoder, paired)
    n, owner = len(seen.clip), {"pair": pair, "method": method, "seed": seed}
    distance = clip_distance(seen.clip, reference.clip)
    clip = reference.protocol(f"CLIP {reference.encoder.name}", n)
    gap = reference.protocol("half squared distance of the mean CLIP embeddings", n)
    return [
        *_frechet(seen.features, reference, owner),
        *(_paired(seen.first, reference, owner) if paired else ()),
        _mean("clip_distance", distance.per_image, clip, owner),
        Metric("clip_gap", distance.gap, n, None, gap, **owner),
    ]


def _frechet(features: Sequence[Tensor], reference: Reference, owner: dict) -> list[Metric]:
    metrics = []
    # Fewer judges than names: a world may have none.
    judged = zip(("frechet", "frechet_vit"), reference.judges, features, reference.features)  # noqa: B905
    for name, judge, generated, truth in judged:
        stream = rng(0, "evaluation bootstrap", name)
        value, interval = frechet_bootstrap(generated, truth, stream)
        protocol = reference.protocol(f"{type(judge).__name__} features", len(generated))
        metrics.append(Metric(name, value, len(generated), interval, protocol, **owner))
    return metrics


def _paired(images: Tensor, reference: Reference, owner: dict) -> list[Metric]:
    """Distances to the true target of the same latent, and diversity, of images [P, 3, H, W]."""
    phi, truth = PerceptualEmbedding(reference.judges[0].maps), reference.truth
    embedded = phi(images)
    same = f"to the true target of the same {len(truth)} latents"
    half = "share of the pixel range"
    edges = paired_edge_l1(images, truth) / 2
    diversity = f"mean pairwise judge-map distance of {len(truth)} images"
    features = (embedded - phi(truth)).square().sum(dim=1)
    return [
        _mean("paired_feature", features, f"judge maps, {same}", owner),
        _mean("paired_l1", paired_l1(images, truth) / 2, f"{half}, {same}", owner),
        _mean("paired_edge", edges, f"pixel differences, {half}, {same}", owner),
        Metric("diversity", mean_pairwise_distance(embedded), len(truth), None, diversity, **owner),
    ]


def _mean(name: str, values: Tensor, protocol: str, owner: dict) -> Metric:
    interval = mean_bootstrap(values, rng(0, "evaluation bootstrap", name))
    return Metric(name, float(values.mean()), len(values), interval, protocol, **owner)
