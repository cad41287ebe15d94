r"""TargetCLIP (Chefer et al. 2022): one offset in w+, the same for everybody, and nothing else.

    adapt(source, space, TargetCLIP(space, picture), latent_direction(), config)

For the target picture I_T and samples s of a frozen generator, an offset b is sought with

    similarity    mean_s 1 - cos(E(G(s + b)), E(I_T))           every image comes near the target
    consistency   mean_(s != t) 1 - cos(D_s, D_t)               and all move the same way,
                  D_s = E(G(s + b)) - E(G(s))
    norm          |b|^2 / 2                                     the weight decay of its Adam

This is the variant by optimisation of the official code, as the reference that it is in the tables
of MindTheGap and HyperDomainNet: the generator stays as it is, so its images stay photographs. Left
out is what its code does besides: coefficients per source image, made anew for every step; four
fixed source images instead of fresh ones; a start at the inverted target instead of at zero; CLIP
without its colour statistics; a schedule for the learning rate, and the best step instead of the
last.
"""

from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.images.checks import checked_pictures, digest
from airlib.methods.step import Step, WithoutMemory
from airlib.methods.task import Task


@dataclass(frozen=True)
class TargetCLIPConfig:
    """Weights of the losses; the terms that the loop gets have them in already."""

    similarity: float = 1.0
    consistency: float = 0.5
    norm: float = 0.003


class TargetCLIP(WithoutMemory):
    """TargetCLIP's three losses, for the parameterization `latent_direction`.

    pictures: [n, 3, H, H] in [-1, 1] of the target, one in the paper; with several, their mean
    embedding is the target. Raises AirlibError for pictures of other shapes and ranges.
    """

    Config = TargetCLIPConfig
    by_picture = True

    def __init__(
        self, space: ClipSpace, pictures: Tensor, config: TargetCLIPConfig | None = None
    ):  # fmt: skip
        self.space, self.config = space, config or TargetCLIPConfig()
        pictures = checked_pictures(pictures).to(space.encoders[0].device)
        with torch.no_grad():
            found = space.embed_images(pictures)
        self.targets = [F.normalize(embeddings.mean(dim=0), dim=0) for embeddings in found]
        self.settings = {
            "method": "target_clip", "pictures": digest(pictures), **asdict(self.config),
            "clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights,
        }  # fmt: skip

    @classmethod
    def of(cls, task: Task, config: TargetCLIPConfig, seed: int) -> Self:
        return cls(task.space, task.picture(), config)

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"similarity", "consistency", "norm"}, each with its weight."""
        direction = getattr(step.adapted, "direction", None)
        if direction is None:
            raise AirlibError("TargetCLIP moves latents; adapt latent_direction()")
        if len(step.latents) < 2:
            raise AirlibError("TargetCLIP compares images; use a batch of at least 2")
        offsets, weights = step.offsets_from(step.source_embeddings), self.config
        adapted = step.adapted_embeddings
        similarity = self.space.weighted(_distance, adapted, self.targets)
        consistency = self.space.weighted(inconsistency, offsets)
        return {
            "similarity": weights.similarity * similarity,
            "consistency": weights.consistency * consistency,
            "norm": weights.norm * direction.square().sum() / 2,
        }


def _distance(embeddings: Tensor, target: Tensor) -> Tensor:
    """Mean 1 - cos of unit embeddings [B, D] to a unit vector [D]."""
    return (1 - embeddings @ target).mean()


def inconsistency(offsets: Tensor) -> Tensor:
    """Mean 1 - cos of offsets [B, D] over all pairs of different ones; 0 if all are parallel."""
    n, unit = len(offsets), F.normalize(offsets, dim=1)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=offsets.device)
    return (1 - unit @ unit.T)[off_diagonal].mean()
