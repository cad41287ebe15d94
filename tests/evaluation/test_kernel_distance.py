"""The kernel distance against its definition, torch-fidelity, and what unbiased means."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from airlib.errors import AirlibError
from airlib.evaluation.kernel_distance import kernel_distance
from airlib.seeding import rng


def normal(n: int, width: int = 12, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, width, generator=rng(seed, "test"), dtype=torch.float64) + shift


def by_definition(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def mean(pairs) -> float:
        values = [kernel(a, b) for a, b in pairs]
        return math.fsum(values) / len(values)

    within = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2))
    return within - 2 * mean(itertools.product(x, y))


@pytest.mark.parametrize("rows", [1, 7, 23, 1024])
def test_equal_to_the_definition_in_blocks_of_any_size(rows):
    x, y = normal(23), normal(31, seed=1, shift=0.3)
    assert kernel_distance(x, y, rows) == pytest.approx(by_definition(x, y), rel=1e-12)


def test_equal_to_torch_fidelity_on_one_subset_of_everything():
    x, y = normal(400, 64), normal(400, 64, seed=1, shift=0.2)
    found = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=400, verbose=False)
    expected = found["kernel_inception_distance_mean"]
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Two sets of two scalars: kernels (ab + 1)^3."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
    # k(0, 1) = 1; k(1, -1) = 0; between: k(0, .) = 1, 1, k(1, 1) = 8, k(1, -1) = 0
    assert kernel_distance(x, y) == pytest.approx(1 + 0 - 2 * 10 / 4)


def test_mean_over_samples_of_one_distribution_is_zero_for_any_size():
    """A biased statistic would be above 0, and more so for the smaller sets."""
    for n in (4, 16):
        values = torch.tensor(
            [
                kernel_distance(normal(n, seed=2 * seed), normal(n, seed=2 * seed + 1))
                for seed in range(300)
            ]
        )
        error = values.std() / 300**0.5
        assert values.min() < 0 < values.max() and values.mean().abs() < 3 * error


def test_order_of_sets_and_rows_does_not_matter():
    x, y = normal(40), normal(50, seed=1, shift=0.1)
    value = kernel_distance(x, y)
    assert kernel_distance(y, x) == pytest.approx(value, rel=1e-12)
    assert kernel_distance(x.flip(0), y, rows=9) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "x", [torch.zeros(5), torch.zeros(1, 3), torch.full((4, 3), math.nan), torch.zeros(4, 2)]
)
def test_what_are_no_two_sets_is_refused(x):
    with pytest.raises(AirlibError):
        kernel_distance(x, torch.zeros(4, 3))
