"""Perceptual distances as squared Euclidean distances in one explicit embedding.

LPIPS (Zhang et al. 2018) sums, over the layers l of a network, the squared difference of
channel-normalised feature maps, averaged over the H_l x W_l positions and weighted per channel:

    d(x, y) = sum_l 1 / (H_l W_l) sum_hw | sqrt(w_l) * (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|) |^2

That is |phi(x) - phi(y)|^2 with phi the concatenation of sqrt(w_l / (H_l W_l)) f_l / |f_l|. So each
image goes through the network once, not once per pair, and the mean distance over all pairs of a
set follows from two sums (`mean_pairwise_distance`) instead of N^2 comparisons.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.errors import AirlibError

MapsFunction = Callable[[Tensor], Sequence[Tensor]]


class PerceptualEmbedding:
    """Embedding phi of images in which |phi(x) - phi(y)|^2 is a perceptual distance like LPIPS.

        phi = PerceptualEmbedding(judge.maps, judge.layer_weights)(images)

    Args:
        maps_fn: images [B, 3, H, W] in [-1, 1] -> feature maps [B, C_l, H_l, W_l], one per layer.
        layer_weights: per layer a number or a tensor [C_l], none negative; 1 where not given.

    Raises AirlibError for negative weights.
    """

    def __init__(
        self, maps_fn: MapsFunction, layer_weights: Sequence[float | Tensor] | None = None
    ) -> None:
        self.maps_fn = maps_fn
        self.layer_weights = None
        if layer_weights is not None:
            self.layer_weights = [torch.as_tensor(w, dtype=torch.float32) for w in layer_weights]
            if any((w < 0).any() for w in self.layer_weights):
                raise AirlibError("layer weights must not be negative: they weight distances")

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 64) -> Tensor:
        """Images [N, 3, H, W], clipped to [-1, 1] as in a saved picture -> phi [N, D] in float32,
        `batch` images at a time.
        """
        return torch.cat([self.embed(part.clamp(-1, 1)) for part in images.split(batch)])

    def paired_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Perceptual distance of image i of x to image i of y, both [N, 3, H, W] -> [N].

        Raises AirlibError for different shapes.
        """
        _check_same_shape(x, y)
        return (self(x) - self(y)).square().sum(1)

    def embed(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> phi [N, D], all at once and differentiable: for losses.

        They are not clipped here: a clipped pixel has no gradient, and would never come back.
        """
        maps = self.maps_fn(images)
        weights = self.layer_weights or [torch.ones(())] * len(maps)
        if len(weights) != len(maps):
            raise AirlibError(f"{len(weights)} layer weights for {len(maps)} feature maps")
        parts = []
        for feature, weight in zip(maps, weights, strict=True):
            feature = feature.float()  # [B, C, h, w]
            unit = feature / (feature.norm(dim=1, keepdim=True) + 1e-10)
            scale = (weight.to(unit.device) / (feature.shape[2] * feature.shape[3])).sqrt()
            parts.append((unit * scale.view(1, -1, 1, 1)).flatten(1))
        return torch.cat(parts, 1)


def scaled_down(images: Tensor, size: int | None) -> Tensor:
    """Images [B, 3, H, W], scaled down to [B, 3, size, size] if a side is above `size`.

    What is scaled is clipped to [-1, 1] before, as in a saved picture, and smoothed (bicubic, as
    Pillow does it). Other images are returned as they are, and all are if `size` is None.
    """
    if size is None or max(images.shape[2:]) <= size:
        return images
    return at_most(images.clamp(-1, 1), size)


def at_most(images: Tensor, size: int) -> Tensor:
    """Scale images down as `scaled_down` does, without clipping them: for losses."""
    if max(images.shape[2:]) <= size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


def mean_pairwise_distance(embeddings: Tensor | Iterable[Tensor]) -> float:
    """Mean of |phi_i - phi_j|^2 over all i != j: how diverse a set is.

    `embeddings` is [N, D], or an iterable of such batches where N x D does not fit in memory.
    Closed form in O(N): 2 N / (N - 1) (mean |phi|^2 - |mean phi|^2), summed in float64.
    Raises AirlibError for fewer than two embeddings.
    """
    batches = [embeddings] if isinstance(embeddings, Tensor) else embeddings
    count, total, squares = 0, torch.zeros(()), 0.0
    for batch in batches:
        batch = batch.double()
        count += len(batch)
        total = total + batch.sum(0)
        squares += float(batch.square().sum())
    if count < 2:
        raise AirlibError(f"a mean over pairs needs at least 2 embeddings, got {count}")
    spread = squares / count - float((total / count).square().sum())
    return max(2 * count / (count - 1) * spread, 0.0)


def paired_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute pixel difference of image i of x and image i of y: [N, 3, H, W] -> [N].

    Pixels are clipped to [-1, 1]. Raises AirlibError for different shapes.
    """
    _check_same_shape(x, y)
    return (x.clamp(-1, 1) - y.clamp(-1, 1)).abs().mean((1, 2, 3))


def paired_edge_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the edges of image i of x and of y: [N, 3, H, W] -> [N].

    Edges are the horizontal and vertical pixel differences, pixels being clipped to [-1, 1]. A
    colour that is wrong by the same amount everywhere costs nothing, a line that is missing does.
    Raises AirlibError for different shapes.
    """
    _check_same_shape(x, y)
    error = x.clamp(-1, 1) - y.clamp(-1, 1)
    edges = [error.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3)]
    return (edges[0] + edges[1]) / 2


def _check_same_shape(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise AirlibError(f"paired images must match: got {list(x.shape)} and {list(y.shape)}")
