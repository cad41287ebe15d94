"""The one protocol every method is scored by: same latents, same references, same judge.

    reference = Reference.of(judges, encoder, true_images, paired_truth)
    metrics = evaluate(world.draw(adapted, 300), reference, "human-baby", "air", seed=0)

Against the whole target domain: Frechet distances in the features of two judges of different
architecture, and CLIP distance. Against the true target of the *same* latent, which only the tiny
world can draw: paired feature distance, paired L1, and paired edge L1, in which colours that are
right on average do not help. On the set alone: diversity, the mean perceptual distance between two
of its images. Everything is computed from one pass over the generated images.
"""

from collections.abc import Callable
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
from airlib.tinyworld.judge import Judge, VitJudge

BATCH = 50
LABELS = {  # metric -> column title, with the direction that is better
    "frechet": "Frechet distance (judge) ↓",
    "frechet_vit": "Frechet distance (second judge) ↓",
    "paired_feature": "paired feature distance ↓",
    "paired_l1": "paired L1 ↓",
    "paired_edge": "paired edge L1 ↓",
    "clip_distance": "CLIP distance ↓",
    "diversity": "diversity ↑",
}


@dataclass(frozen=True)
class Reference:
    """A target domain as the metrics see it."""

    judges: tuple[Judge, VitJudge]  # the first also gives the perceptual distances
    encoder: ClipEncoder
    features: tuple[Tensor, Tensor]  # per judge, features [M, F] of true target images
    clip: Tensor  # CLIP embeddings [M, D] of the same
    truth: Tensor  # images [P, 3, H, W]: the true targets of the first P latents

    @classmethod
    def of(
        cls, judges: tuple[Judge, VitJudge], encoder: ClipEncoder, images: Tensor, truth: Tensor
    ) -> "Reference":
        """Embed M true target images once."""
        features = tuple(_in_batches(judge.features, images) for judge in judges)
        return cls(judges, encoder, features, _in_batches(encoder.embed_images, images), truth)

    def protocol(self, what: str, generated: int) -> str:
        """How a value was made, in words."""
        return f"{what}; {generated} generated, {len(self.features[0])} true target images"


@torch.no_grad()
def _in_batches(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return torch.cat([function(part) for part in inputs.split(BATCH)])


def evaluate(
    images: Tensor, reference: Reference,
    pair: str | None = None, method: str | None = None, seed: int | None = None,
) -> list[Metric]:  # fmt: skip
    """All metrics of images [N, 3, H, W] that belong to the reference's latents, in order."""
    images = images.clamp(-1, 1)  # as in a saved picture
    owner = {"pair": pair, "method": method, "seed": seed}
    distance = clip_distance(_in_batches(reference.encoder.embed_images, images), reference.clip)
    clip = reference.protocol(f"CLIP {reference.encoder.name}", len(images))
    gap = reference.protocol("half squared distance of the mean CLIP embeddings", len(images))
    return [
        *_frechet(images, reference, owner),
        *_paired(images[: len(reference.truth)], reference, owner),
        _mean("clip_distance", distance.per_image, clip, owner),
        Metric("clip_gap", distance.gap, len(images), None, gap, **owner),
    ]


def _frechet(images: Tensor, reference: Reference, owner: dict) -> list[Metric]:
    metrics = []
    judged = zip(("frechet", "frechet_vit"), reference.judges, reference.features, strict=True)
    for name, judge, truth in judged:
        stream = rng(0, "evaluation bootstrap", name)
        value, interval = frechet_bootstrap(_in_batches(judge.features, images), truth, stream)
        protocol = reference.protocol(f"{type(judge).__name__} features", len(images))
        metrics.append(Metric(name, value, len(images), interval, protocol, **owner))
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
