"""Would the loss know the right answer? The truth gap of a CLIP and a way of adapting.

A directional loss can be met better by images that only CLIP likes than by the right ones. Where
the true target of every latent is known, that is a number:

    gap = L(true target | true source) - L(adapted image | source image)

Positive: optimisation went past the truth and is paid for it. Zero or negative: at the truth the
loss would be lower still, so following it is safe.

    gap = GapReference.of(space, directions, source_images, (true_source, true_target), views=2)
    gap.reached_by(adapted_images).gap
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from airlib.clip_space.augmentation import random_views
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.seeding import rng


@dataclass(frozen=True)
class TruthGap:
    """Directional losses of the true targets (`truth`) and of adapted images (`reached`)."""

    truth: float
    reached: float

    @property
    def gap(self) -> float:
        """How much lower the loss of the adapted images is than that of the true targets.

        Positive: optimisation went past the truth. Zero or negative: following the loss is safe.
        """
        return self.truth - self.reached


@dataclass(frozen=True, eq=False)
class GapReference:
    """What adapted images of N latents are compared with, embedded once for all methods.

    space: the CLIP models. directions: a unit text direction [D] per model. views: random views
    per image. source: embeddings of the source images, a tensor per model. truth: the directional
    loss of the true targets.
    """

    space: ClipSpace
    directions: list[Tensor]
    views: int
    source: list[Tensor]
    truth: float

    @classmethod
    @torch.no_grad()
    def of(
        cls, space: ClipSpace, directions: list[Tensor], source: Tensor,
        true: tuple[Tensor, Tensor], views: int,
    ) -> Self:  # fmt: skip
        """The reference for N latents, whose true source and target images are known.

        directions: a unit text direction [D] per CLIP model. source: images [N, 3, H, W] of the
        source generator. true: the true source and target images, [N, 3, H, W] each. views: random
        views per image, drawn independently for every set, as in training; 0: the images
        themselves.
        """
        true_source, true_target = (
            _embed(space, images, views, "truth", role)
            for role, images in zip(("source", "target"), true, strict=True)
        )
        truth = _loss(space, directions, true_source, true_target)
        return cls(
            space, directions, views, _embed(space, source, views, "reached", "source"), truth
        )

    @torch.no_grad()
    def reached_by(self, adapted: Tensor) -> TruthGap:
        """The truth gap of adapted images [N, 3, H, W], drawn from the reference's latents."""
        target = _embed(self.space, adapted, self.views, "reached", "target")
        return TruthGap(self.truth, _loss(self.space, self.directions, self.source, target))


def _embed(space: ClipSpace, images: Tensor, views: int, who: str, role: str) -> list[Tensor]:
    stream = rng(0, "truth gap", who, role)
    return space.embed_images(random_views(images, views, stream) if views else images)


def _loss(
    space: ClipSpace, directions: list[Tensor], source: list[Tensor], target: list[Tensor]
) -> float:
    offsets = [b - a for a, b in zip(source, target, strict=True)]
    return float(space.weighted(directional_loss, offsets, directions))
