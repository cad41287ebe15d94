"""Would the loss know the right answer? The truth gap of a CLIP and a way of adapting.

A directional loss can be met better by images that only CLIP likes than by the right ones. Where
the true target of every latent is known, that is a number:

    gap = L(true target | true source) - L(adapted image | source image)

Positive: optimisation went past the truth and is paid for it. Zero or negative: at the truth the
loss would be lower still, so following it is safe.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.clip_space.augmentation import random_views
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.seeding import rng


@dataclass(frozen=True)
class TruthGap:
    """Directional losses, of the true targets and of what was reached."""

    truth: float
    reached: float

    @property
    def gap(self) -> float:
        """How much lower the loss is than the truth's."""
        return self.truth - self.reached


@torch.no_grad()
def truth_gap(
    space: ClipSpace, directions: list[Tensor], adapted: tuple[Tensor, Tensor],
    true: tuple[Tensor, Tensor], views: int,
) -> TruthGap:  # fmt: skip
    """The gap on N latents.

    adapted: source and adapted images [N, 3, H, W] of the same latents; true: the renders of both.
    directions: per CLIP model a unit text direction [D]. views: random views per image, drawn
    independently for every set, as in training.
    """

    def loss(who: str, source: Tensor, target: Tensor) -> float:
        embedded = []
        for role, images in (("source", source), ("target", target)):
            stream = rng(0, "truth gap", who, role)
            seen = random_views(images, views, stream) if views else images
            embedded.append(space.embed_images(seen))
        offsets = [b - a for a, b in zip(*embedded, strict=True)]
        return float(space.weighted_sum(lambda m: directional_loss(offsets[m], directions[m])))

    return TruthGap(loss("truth", *true), loss("reached", *adapted))
