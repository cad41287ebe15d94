"""Precision, recall, density and coverage against loops over points, and by hand."""

import math

import pytest
import torch
from torch import Tensor

import airlib.evaluation.manifold as module
from airlib.errors import AirlibError
from airlib.evaluation.manifold import Manifold, manifold
from airlib.seeding import rng


def normal(n: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=rng(seed, "test"), dtype=torch.float64)


def by_definition(generated: Tensor, references: Tensor, k: int) -> Manifold:
    """Distances one by one, in Python."""
    x, y = generated.tolist(), references.tolist()

    def radii(points: list) -> list[float]:
        return [sorted(math.dist(p, q) for q in points)[k] for p in points]  # the first is itself

    radii_x, radii_y = radii(x), radii(y)
    in_ball_of_y = [[math.dist(p, q) <= r for q, r in zip(y, radii_y, strict=True)] for p in x]
    within_ball_of_y = [
        [math.dist(p, q) < r * (1 - 1e-9) for q, r in zip(y, radii_y, strict=True)] for p in x
    ]
    in_ball_of_x = [[math.dist(p, q) <= r for p, r in zip(x, radii_x, strict=True)] for q in y]
    return Manifold(
        precision=sum(map(any, in_ball_of_y)) / len(x),
        recall=sum(map(any, in_ball_of_x)) / len(y),
        density=sum(map(sum, within_ball_of_y)) / (k * len(x)),
        coverage=sum(map(any, zip(*within_ball_of_y, strict=True))) / len(y),
    )


def assert_same(found: Manifold, expected: Manifold) -> None:
    assert vars(found) == pytest.approx(vars(expected), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("rows", [1, 16, 1000])
def test_equal_to_the_definition_in_blocks_of_any_size(rows, k, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    x, y = normal(40) * 0.8 + 0.8, normal(55, seed=1)
    expected = by_definition(x, y, k)
    assert_same(manifold(x, y, k), expected)
    assert 0 < expected.recall < 1 and 0 < expected.coverage < 1  # else the test says little


def test_by_hand_on_a_line():
    references = torch.tensor([[0.0], [1.0], [3.0]])  # radii for k = 1: 1, 1, 2
    generated = torch.tensor([[1.5], [4.0], [9.0], [9.5]])  # radii 2.5, 2.5, 0.5, 0.5
    found = manifold(generated, references, k=1)
    # 1.5 is in the balls of 1 and 3, 4 in that of 3, the others in none; 0 has no image near it.
    assert_same(found, Manifold(2 / 4, 3 / 3, 3 / 4, 2 / 3))


def test_a_point_on_the_surface_counts_as_in_the_code_of_the_authors():
    """prdc compares with <, the code of precision and recall with <=."""
    references = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # radii 1
    generated = torch.tensor([[-1.0], [4.0], [20.0]])  # radii 5, 5, 16: on the balls of 0 and 3
    found = manifold(generated, references, k=1)
    assert_same(found, Manifold(2 / 3, 1.0, 0.0, 0.0))
    assert_same(found, by_definition(generated, references, 1))


def test_equal_sets_overlap_and_distant_ones_do_not():
    x = normal(50)
    same, apart = manifold(x, x), manifold(x, x + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(1, abs=1e-12)  # itself and k - 1 nearer than the k-th
    assert_same(apart, Manifold(0, 0, 0, 0))


def test_a_collapsed_generator_is_precise_and_covers_little():
    references = normal(200)
    collapsed = references[:1] + 0.01 * normal(200, seed=2)
    found = manifold(collapsed, references)
    assert found.precision > 0.95 and found.recall < 0.05 and found.coverage < 0.1


def test_an_outlier_raises_precision_and_hardly_density():
    """Why Naeem et al. count balls: the ball of one stray reference holds everything."""
    generated, references = normal(100) + 8, normal(100, seed=1)
    stray = torch.full((1, 6), 12.0, dtype=torch.float64)
    before, after = (manifold(generated, r) for r in (references, torch.cat([references, stray])))
    assert before.precision == 0 and after.precision > 0.9
    assert after.density < 0.4 and after.coverage == pytest.approx(1 / 101)


def test_shifts_rotations_and_scales_change_nothing():
    x, y = normal(40), normal(50, seed=1)
    turn = torch.linalg.qr(normal(6, seed=3)).Q
    assert_same(manifold(3 * x @ turn + 1000, 3 * y @ turn + 1000), manifold(x, y))


@pytest.mark.parametrize(("n", "k"), [(5, 5), (5, 9), (9, 0), (3, 3)])
def test_too_many_neighbours_are_refused(n, k):
    with pytest.raises(AirlibError, match=f"k = {k}.*smaller has {n}"):
        manifold(normal(n), normal(9, seed=1), k)
    with pytest.raises(AirlibError, match=f"k = {k}"):
        manifold(normal(9), normal(n, seed=1), k)


@pytest.mark.parametrize("x", [torch.zeros(8), torch.full((8, 6), math.nan), torch.zeros(8, 2)])
def test_what_are_no_two_sets_is_refused(x):
    with pytest.raises(AirlibError):
        manifold(x, normal(8))
