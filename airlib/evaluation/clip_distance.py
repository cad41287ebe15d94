"""CLIP Distance (AIR, Tables 1 and 2): how far generated images are from references in CLIP space.

AIR averages 1 - cos over all pairs (generated image, reference image). With unit embeddings that is
1 - m_x . m_y for the two mean embeddings, and it splits exactly into three terms:

    1 - m_x . m_y  =  |m_x - m_y|^2 / 2  +  (1 - |m_x|^2) / 2  +  (1 - |m_y|^2) / 2
       distance            gap             generated diversity     reference diversity

A generator that collapses to one good image loses its diversity term and therefore *scores better*.
So the split is reported with the distance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError


@dataclass(frozen=True)
class ClipDistance:
    """CLIP Distance (AIR, Tables 1 and 2) with its split.

    `value` = `gap` + `generated_diversity` + `reference_diversity`; all are >= 0 and at most 2.
    `gap` is half the squared distance of the two mean embeddings, a diversity half the mean squared
    distance of the embeddings of a set from their mean. `per_image` [N] holds the mean distance of
    each generated image to all references; the mean of `per_image` is `value`.
    """

    value: float
    gap: float
    generated_diversity: float
    reference_diversity: float
    per_image: Tensor


def clip_distance(generated: Tensor, references: Tensor) -> ClipDistance:
    """CLIP Distance of unit image embeddings [N, D] and [M, D], with its split.

    Raises AirlibError for other shapes or embeddings that do not have unit length.
    """
    x, y = unit_embeddings(generated, "generated"), unit_embeddings(references, "references")
    if x.shape[1] != y.shape[1]:
        raise AirlibError(f"embeddings differ in width: {x.shape[1]} and {y.shape[1]}")
    mean_x, mean_y = x.mean(0), y.mean(0)
    per_image = 1 - x @ mean_y  # [N]
    return ClipDistance(
        value=float(per_image.mean()),
        gap=float((mean_x - mean_y).square().sum() / 2),
        generated_diversity=float((1 - mean_x.square().sum()) / 2),
        reference_diversity=float((1 - mean_y.square().sum()) / 2),
        per_image=per_image,
    )


def unit_embeddings(embeddings: Tensor, name: str) -> Tensor:
    """Embeddings [N, D] of about unit length -> float64 rows of exactly unit length.

    name: what the embeddings are, for messages. Raises AirlibError for other shapes, no rows, and
    lengths that differ from 1 by more than a hundredth.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise AirlibError(f"{name}: expected embeddings [N, D], got {list(embeddings.shape)}")
    embeddings = embeddings.detach().double()
    lengths = embeddings.norm(dim=1, keepdim=True)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-2):
        raise AirlibError(f"{name}: embeddings must have unit length; use ClipEncoder.embed_images")
    return embeddings / lengths
