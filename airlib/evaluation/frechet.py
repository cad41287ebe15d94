"""Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017).

    d = |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)

The usual code takes a matrix square root of C_x C_y, which is slow, turns complex when there are
fewer samples than features, and is inexact there. With A and B the centred features divided by
sqrt(n - 1), C_x = A^T A and C_y = B^T B, so tr (C_x C_y)^(1/2) is the sum of the singular values of
A B^T: no square root, and exact for any number of samples. With many samples the same sum is read
off a [features, features] matrix: C_y = H H^T by Cholesky, and C_x C_y has the eigenvalues of the
symmetric H^T C_x H. All arithmetic is in float64: float32 is wrong in the third digit.

With few samples the distance is biased upward, so compare distances of equal sample sizes only.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from airlib.evaluation.feature_sets import feature_pair


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What is left of a set of features as a Gaussian: mean [F] and covariance [F, F], float64."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """H [F, F] with H H^T = covariance."""
        return _root(self.covariance)


def frechet_distance(x: Tensor, y: Tensor | Gaussian) -> float:
    """Distance of features x [N, F] to features [M, F] or to a Gaussian, in squared feature units.

    Covariances are unbiased (divided by N - 1). Exact also for N or M below F.
    Raises AirlibError for other shapes, fewer than 2 rows, or values that are not finite.
    """
    if isinstance(y, Gaussian):
        return _distance_to(x, y)
    x, y = feature_pair(x, y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = (x - mean_x).div_((len(x) - 1) ** 0.5)  # [N, F]
    b = (y - mean_y).div_((len(y) - 1) ** 0.5)  # [M, F]
    few_samples = min(len(x), len(y)) < x.shape[1]
    cross = _trace_from_samples(a, b) if few_samples else _trace_from_covariances(a.T @ a, b.T @ b)
    distance = (mean_x - mean_y).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    return max(float(distance), 0.0)  # rounding may leave -1e-14 for equal sets


def _distance_to(x: Tensor, y: Gaussian) -> float:
    x, means = feature_pair(x, y.mean.expand(2, -1))
    a = (x - x.mean(0)).div_((len(x) - 1) ** 0.5)  # [N, F]
    spread = a.square().sum() + y.covariance.trace()
    cross = torch.linalg.svdvals(a @ y.root).sum()  # the nuclear norm, as with samples
    return max(float((x.mean(0) - means[0]).square().sum() + spread - 2 * cross), 0.0)


def _trace_from_samples(a: Tensor, b: Tensor) -> Tensor:
    """tr (A^T A B^T B)^(1/2) for centred samples a [N, F], b [M, F]: the nuclear norm of A B^T."""
    return torch.linalg.svdvals(a @ b.T).sum()


def _trace_from_covariances(covariance_x: Tensor, covariance_y: Tensor) -> Tensor:
    """tr (C_x C_y)^(1/2) for two covariances [F, F], which may be singular."""
    half = _root(covariance_y)
    return torch.linalg.eigvalsh(half.T @ covariance_x @ half).clamp(min=0).sqrt().sum()


def _root(covariance: Tensor) -> Tensor:
    """H [F, F] with H H^T = covariance [F, F], which may be singular."""
    half, failed = torch.linalg.cholesky_ex(covariance)
    if failed:  # singular, e.g. features that are always 0: C = V diag(v) V^T instead
        values, vectors = torch.linalg.eigh(covariance)
        half = vectors * values.clamp(min=0).sqrt()
    return half
