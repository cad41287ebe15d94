"""Quality and Diversity (HyperDomainNet, appendix A.3.3), in CLIP space.

    Quality    mean over images x_i and sentences t_j of cos(x_i, t_j) = m_x . m_t
    Diversity  mean over pairs of images, i != j, of 1 - cos(x_i, x_j) = N / (N - 1) (1 - |m_x|^2)

with m the mean of unit embeddings. Sentences are the description in every template. Quality alone
rewards a generator that collapses to one fitting image, so the two are read together; and a CLIP
that took part in training flatters both, so the paper measures with one that did not (ViT-L/14).
"""

from dataclasses import dataclass

from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.clip_distance import unit_embeddings


@dataclass(frozen=True)
class TextQuality:
    """Quality in CLIP space (HyperDomainNet, appendix A.3.3).

    `per_image` [N] holds the mean cosine of each image to all sentences, `value` is the mean of
    `per_image`; -1 .. 1.
    """

    value: float
    per_image: Tensor


def text_quality(images: Tensor, texts: Tensor) -> TextQuality:
    """Quality of unit image embeddings [N, D] for unit text embeddings [T, D]; -1 .. 1.

    Raises AirlibError for other shapes or embeddings that do not have unit length.
    """
    x, t = unit_embeddings(images, "images"), unit_embeddings(texts, "texts")
    if x.shape[1] != t.shape[1]:
        raise AirlibError(f"embeddings differ in width: {x.shape[1]} and {t.shape[1]}")
    per_image = x @ t.mean(0)  # [N]
    return TextQuality(float(per_image.mean()), per_image)


def clip_diversity(images: Tensor) -> float:
    """Diversity of unit image embeddings [N, D]; 0 .. 2, and 0 if all are the same.

    The mean of 1 - cos over all pairs (HyperDomainNet, appendix A.3.3). Raises AirlibError for
    other shapes, fewer than two images, or embeddings that do not have unit length.
    """
    x = unit_embeddings(images, "images")
    if len(x) < 2:
        raise AirlibError("diversity is a mean over pairs of images and needs at least 2")
    spread = 1 - float(x.mean(0).square().sum())
    return max(len(x) / (len(x) - 1) * spread, 0.0)  # rounding may leave -1e-16
