"""The one protocol every method is scored by: same latents, same references, same judge.

    reference = Reference.of(judge, space, true_images, generator.map(z), paired_truth)
    metrics = evaluate(generator, reference, pair="human-baby", method="AIR", seed=0)

Against the whole target domain: Frechet distance (judge features) and CLIP distance. Against the
true target of the *same* latent, which only the tiny world can draw: paired feature distance and
paired L1. On the set alone: diversity, the mean perceptual distance between two of its images.
Everything is computed from one pass over the generated images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.intervals import frechet_bootstrap, mean_bootstrap
from airlib.evaluation.perceptual import PerceptualEmbedding, mean_pairwise_distance, paired_l1
from airlib.results import Metric
from airlib.seeding import rng
from airlib.tinyworld.judge import Judge

BATCH = 50
LABELS = {  # metric -> column title, with the direction that is better
    "frechet": "Frechet distance (judge) ↓",
    "paired_feature": "paired feature distance ↓",
    "paired_l1": "paired L1 ↓",
    "clip_distance": "CLIP distance ↓",
    "diversity": "diversity ↑",
}


@dataclass(frozen=True)
class Reference:
    """A target domain as the metrics see it, and the latents that every method is sampled at."""

    judge: Judge
    encoder: ClipEncoder
    latents: Tensor  # [N, ...] for the generator
    features: Tensor  # judge features [M, F] of true target images
    clip: Tensor  # CLIP embeddings [M, D] of the same
    truth: Tensor  # images [P, 3, H, W]: the true target of the first P latents

    @classmethod
    def of(
        cls, judge: Judge, encoder: ClipEncoder, images: Tensor, latents: Tensor, truth: Tensor
    ) -> "Reference":
        """Embed M true target images once."""
        return cls(
            judge, encoder, latents, _in_batches(judge.features, images),
            _in_batches(encoder.embed_images, images), truth,
        )  # fmt: skip

    def protocol(self, what: str) -> str:
        """How a value was made, in words."""
        return f"{what}; {len(self.latents)} generated, {len(self.features)} true target images"


@torch.no_grad()
def _in_batches(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return torch.cat([function(part) for part in inputs.split(BATCH)])


def evaluate(
    generator: Callable[[Tensor], Tensor], reference: Reference,
    pair: str | None = None, method: str | None = None, seed: int | None = None,
) -> list[Metric]:  # fmt: skip
    """All metrics of a generator (latents -> images) at the reference's latents."""
    images = _in_batches(generator, reference.latents).clamp(-1, 1)
    return evaluate_images(images, reference, pair, method, seed)


def evaluate_images(
    images: Tensor, reference: Reference,
    pair: str | None = None, method: str | None = None, seed: int | None = None,
) -> list[Metric]:  # fmt: skip
    """All metrics of images [N, 3, H, W] that belong to the reference's latents, in order."""
    stream = rng(0, "evaluation bootstrap")
    judge, truth = reference.judge, reference.truth
    phi = PerceptualEmbedding(judge.maps)
    generated, paired = phi(images[: len(truth)]), images[: len(truth)]
    features = (generated - phi(truth)).square().sum(dim=1)
    pixels = paired_l1(paired, truth) / 2  # of the full range
    encoder = reference.encoder
    distance = clip_distance(_in_batches(encoder.embed_images, images), reference.clip)
    frechet, frechet_interval = frechet_bootstrap(
        _in_batches(judge.features, images), reference.features, stream
    )
    owner = {"pair": pair, "method": method, "seed": seed}
    same = f"to the true target of the same {len(truth)} latents"

    def mean(name: str, values: Tensor, protocol: str) -> Metric:
        interval = mean_bootstrap(values, stream)
        return Metric(name, float(values.mean()), len(values), interval, protocol, **owner)

    return [
        Metric(
            "frechet", frechet, len(images), frechet_interval,
            reference.protocol("judge features"), **owner,
        ),
        mean("paired_feature", features, f"judge maps, {same}"),
        mean("paired_l1", pixels, f"share of the pixel range, {same}"),
        mean("clip_distance", distance.per_image, reference.protocol(f"CLIP {encoder.name}")),
        Metric(
            "clip_gap", distance.gap, len(images), None,
            reference.protocol("half squared distance of the mean CLIP embeddings"), **owner,
        ),
        Metric(
            "diversity", mean_pairwise_distance(generated), len(generated), None,
            f"mean pairwise judge-map distance of {len(generated)} images", **owner,
        ),
    ]  # fmt: skip
