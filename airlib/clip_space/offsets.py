"""Directions: the difference of two points in CLIP space, as images and as text.

Zero-shot adaptation assumes that the offset from source to target *images* points the same way as
the offset from source to target *text*. `text_direction` gives the second, `directional_loss` asks
the first to follow it (StyleGAN-NADA, Eq. 2-3; L_direction of AIR).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.templates import sentences_of
from airlib.errors import AirlibError

Order = Literal["mean_then_norm", "norm_mean_norm"]

SMALLEST_OFFSET = 1e-6
"""Offsets of unit float32 vectors shorter than this are rounding noise without a direction."""


def class_features(
    encoder: ClipEncoder, label: str, templates: str | Sequence[str] = "nada79"
) -> Tensor:
    """Unit features [K, D] of `label` in each of the K templates (`templates_of`), not averaged."""
    return encoder.embed_text(sentences_of(templates, label))


def text_direction(
    encoder: ClipEncoder,
    source_class: str,
    target_class: str,
    templates: str | Sequence[str] = "nada79",
    order: Order = "mean_then_norm",
) -> Tensor:
    """Unit vector [D] from the source to the target class, a mean over templates (`templates_of`).

    order: see `mean_direction`. Raises AirlibError if both classes have the same features.
    """
    source = class_features(encoder, source_class, templates)
    target = class_features(encoder, target_class, templates)
    if (source == target).all():
        raise AirlibError(
            f"source {source_class!r} and target {target_class!r} have the same text features, so "
            "there is no direction between them; choose two different classes"
        )
    return mean_direction(source, target, order)


def mean_direction(source: Tensor, target: Tensor, order: Order = "mean_then_norm") -> Tensor:
    """Unit mean offset [D] of paired features [K, D].

    "mean_then_norm": StyleGAN-NADA's code, the offsets weigh by their length.
    "norm_mean_norm": AIR's code, every offset is normalised first and weighs the same.
    """
    offsets = target - source
    if order == "norm_mean_norm":
        offsets = F.normalize(offsets, dim=-1)
    elif order != "mean_then_norm":
        raise AirlibError(f"unknown order {order!r}; use 'mean_then_norm' or 'norm_mean_norm'")
    return F.normalize(offsets.mean(0), dim=-1)


def directional_loss(image_offsets: Tensor, directions: Tensor) -> Tensor:
    """Mean over the batch of 1 - cos(offset, direction).

    image_offsets [B, D] are differences of unit features and not normalised; directions is [D], or
    [B, D] when each sample has its own. A sample whose offset is zero (the adapted generator still
    equals its source) has no direction: it counts as 1 and gives no gradient, instead of the NaN
    that normalising it would spread to the whole batch.
    """
    norms = image_offsets.detach().norm(dim=-1)
    has_direction = ~(norms <= SMALLEST_OFFSET)  # NaN has to reach the loss, where a guard sees it
    safe = torch.where(has_direction[:, None], image_offsets, torch.ones_like(image_offsets))
    cosines = F.cosine_similarity(safe, directions, dim=-1)
    return (1 - torch.where(has_direction, cosines, torch.zeros_like(cosines))).mean()
