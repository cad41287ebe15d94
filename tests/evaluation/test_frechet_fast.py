"""The Frechet distance against scipy's and torch-fidelity's, on the features of every regime."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from airlib.evaluation.frechet import frechet_distance
from airlib.seeding import rng

WIDTH = 96


def features(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, non-negative and skewed, as behind a ReLU: [n, WIDTH] in float32."""
    stream, mixing = rng(seed, "features"), torch.randn(24, WIDTH, generator=rng(0, "mixing"))
    signal = torch.randn(n, 24, generator=stream) @ mixing / 24**0.5
    return torch.relu(signal + 0.5 * torch.randn(n, WIDTH, generator=stream) + 0.2 + shift)


def by_matrix_square_root(x: Tensor, y: Tensor) -> float:
    """The definition, with scipy's square root of the product of the covariances."""
    x, y = x.double().numpy(), y.double().numpy()
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y).real
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    return gap + covariance_x.trace() + covariance_y.trace() - 2 * root.trace()


def by_torch_fidelity(x: Tensor, y: Tensor) -> float:
    statistics = [fid_features_to_statistics(part.double()) for part in (x, y)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(
    ("n", "m"), [(400, 500), (97, 2000), (60, 500), (500, 60), (40, 30)], ids=str
)
def test_equal_to_both_references_with_many_and_with_few_samples(n, m):
    x, y = features(n, 1), features(m, 2, shift=0.1)
    found = frechet_distance(x, y)
    assert found == pytest.approx(by_torch_fidelity(x, y), rel=1e-6)
    assert found == pytest.approx(by_matrix_square_root(x, y), rel=1e-6)


def test_two_known_gaussians_with_correlated_axes_on_both_routes():
    """Commuting covariances: |m|^2 + sum (s - t)^2 over the deviations along common axes."""
    turn = torch.linalg.qr(torch.randn(8, 8, generator=rng(0, "turn"), dtype=torch.float64)).Q
    s, t = torch.arange(1.0, 9.0).double(), torch.tensor([3.0, 1, 4, 1, 5, 9, 2, 6]).double()
    gap = torch.full((8,), 0.5).double()

    def sample(deviations: Tensor) -> Tensor:  # exactly this covariance, from 16 points
        axes = torch.diag(deviations) * math.sqrt(15 / 2)
        return torch.cat([axes, -axes]) @ turn

    expected = float(gap.square().sum() + (s - t).square().sum())
    x, y = sample(s), sample(t) + gap
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)
    padded = [torch.cat([part, torch.zeros(16, 24).double()], 1) for part in (x, y)]
    assert frechet_distance(*padded) == pytest.approx(
        expected, rel=1e-12
    )  # 16 samples, 32 features


def test_features_that_are_always_zero_or_equal_change_nothing():
    """Their covariance is singular, so it has no Cholesky factor."""
    x, y = features(300, 1), features(300, 2, shift=0.1)
    expected = frechet_distance(x, y)
    for extra in (torch.zeros(300, 10), torch.ones(300, 10)):
        wider = (torch.cat([x, extra], 1), torch.cat([y, extra], 1))
        assert frechet_distance(*wider) == pytest.approx(expected, rel=1e-6)
    twice = torch.cat([x, x], 1), torch.cat([y, y], 1)  # every squared length doubles
    assert frechet_distance(*twice) == pytest.approx(2 * expected, rel=1e-6)


def test_repeated_rows_leave_fewer_directions_than_features():
    """As in a bootstrap of barely enough samples: 110 rows of which 60 differ."""
    x, y = features(60, 1), features(500, 2, shift=0.1)
    x = x[torch.randint(60, (110,), generator=rng(0, "rows"))]
    assert frechet_distance(x, y) == pytest.approx(by_torch_fidelity(x, y), rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(by_torch_fidelity(x, y), rel=1e-6)
