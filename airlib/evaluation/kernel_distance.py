"""Kernel distance between two sets of features, KID for those of Inception (Binkowski et al. 2018).

    k(a, b) = (a . b / F + 1)^3
    d = mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j),    i != j in the first two means

the squared maximum mean discrepancy of a polynomial kernel. Its expectation does not depend on the
number of samples, so sets of different sizes can be compared and a few hundred references will do,
where a Frechet distance is biased; the price is that it can come out below 0.

The usual code averages 100 random subsets to save memory. Here the full statistic is summed over
blocks of rows, which has no randomness and a smaller variance.
"""

import torch
from torch import Tensor

from airlib.evaluation.feature_sets import feature_pair


def kernel_distance(x: Tensor, y: Tensor, rows: int = 1024) -> float:
    """Unbiased kernel distance between features x [N, F] and y [M, F].

    Never more than `rows` x `rows` kernel values are held at a time; all arithmetic is in float64.
    Raises AirlibError for other shapes, fewer than 2 rows, or values that are not finite.
    """
    x, y = feature_pair(x, y)
    cross = sum(_kernel(a, b).sum() for a in x.split(rows) for b in y.split(rows))
    within = _mean_off_diagonal(x, rows) + _mean_off_diagonal(y, rows)
    return float(within - 2 * cross / (len(x) * len(y)))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """[A, F], [B, F] -> [A, B]"""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_off_diagonal(x: Tensor, rows: int) -> Tensor:
    """Mean of k(x_i, x_j) over i != j; blocks above the diagonal stand for those below too."""
    blocks, total = x.split(rows), torch.zeros((), dtype=x.dtype, device=x.device)
    for i, a in enumerate(blocks):
        same = _kernel(a, a)
        total += same.sum() - same.diagonal().sum()
        total += 2 * sum(_kernel(a, b).sum() for b in blocks[i + 1 :])
    return total / (len(x) * (len(x) - 1))
