"""Intra-LPIPS: its variants by hand, its clusterers against planted and frozen ones."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.intra_lpips import (
    VARIANTS,
    alternating_medoids,
    faster_pam,
    intra_lpips,
    intra_lpips_interval,
)
from airlib.seeding import rng

# Positions on a line in three groups: {0, 1, 3}, {100, 104}, {200}.
LINE = torch.tensor([0.0, 100, 200, 1, 104, 3])


def on_a_line(positions: Tensor) -> Tensor:
    return (positions[:, None] - positions).abs()


def blobs(n: int, seed: int = 0, groups: int = 12) -> Tensor:
    """Squared distances of points in overlapping groups of unequal size, as LPIPS values are."""
    stream = rng(seed, "blobs")
    middles = torch.randn(groups, 20, generator=rng(0, "middles"), dtype=torch.float64)
    share = torch.arange(1.0, groups + 1)
    which = torch.multinomial(share, n, replacement=True, generator=stream)
    points = middles[which] + 0.8 * torch.randn(n, 20, generator=stream, dtype=torch.float64)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square() / 50


def cost(distances: Tensor, medoids) -> float:
    return distances[:, list(medoids)].min(1).values.sum().item()


# --- values


def test_within_by_hand():
    found = intra_lpips(on_a_line(LINE), clusters=3)
    # Pairs of the first group: 1, 2, 3; of the second: 4; the third has none and is left out.
    assert found.value == pytest.approx((2 + 4) / 2)
    assert sorted(zip(found.sizes, found.per_cluster, strict=True)) == [(1, None), (2, 4), (3, 2)]


def test_medoid_by_hand():
    found = intra_lpips(on_a_line(LINE), clusters=3, variant="medoid")
    # From the start 3, 100, 1 (the closest to all), 100 takes the upper groups and moves to 104;
    # 0 and 1 belong together. Distances: 1 (or 0 and 1), 0, 4, 96, 0, 0 to 1, 3 and 104.
    assert found.value == pytest.approx((1 + 4 + 96) / 6)
    assert sum(found.sizes) == 6


def test_centres_by_hand():
    to_centres = (LINE[:, None] - torch.tensor([2.0, 150, 1000])).abs()
    found = intra_lpips(on_a_line(LINE), variant="centres", centres=to_centres)
    assert found.sizes == (3, 3, 0)
    assert found.per_cluster == pytest.approx((2, (4 + 96 + 100) / 3, None))
    assert found.value == pytest.approx((2 + 200 / 3) / 2)


def test_within_is_the_loop_over_the_pairs_of_every_cluster():
    distances = blobs(60)
    labels = faster_pam(distances, 5).tolist()
    means = []
    for k in range(5):
        members = [i for i, label in enumerate(labels) if label == k]
        pairs = [distances[i, j].item() for i, j in itertools.combinations(members, 2)]
        means.append(sum(pairs) / len(pairs))
    found = intra_lpips(distances, clusters=5)
    assert found.per_cluster == pytest.approx(tuple(means), rel=1e-12)
    assert found.value == pytest.approx(sum(means) / 5, rel=1e-12)


def test_the_medoids_count_with_zero():
    """The mean over all images is that over the others, times 1 - K / N (AIR's code)."""
    distances = blobs(60)
    medoids = alternating_medoids(distances, 10)
    others = [i for i in range(60) if i not in medoids.tolist()]
    without = distances[others][:, medoids].min(1).values.mean().item()
    found = intra_lpips(distances, variant="medoid")
    assert found.value == pytest.approx(without * (1 - 10 / 60), rel=1e-12)
    weighted = [n * (mean or 0) for n, mean in zip(found.sizes, found.per_cluster, strict=True)]
    assert sum(weighted) / 60 == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("variant", ["within", "medoid"])
def test_one_cluster_is_the_whole_set(variant):
    distances = blobs(20)
    found = intra_lpips(distances, 1, variant).value
    whole = {"within": distances.sum() / (20 * 19), "medoid": distances.mean(1).min()}
    assert found == pytest.approx(whole[variant].item(), rel=1e-12)


def test_units_and_order_of_the_images():
    distances = blobs(60)
    order = torch.randperm(60, generator=rng(0, "order"))
    for variant in ("within", "medoid"):
        value = intra_lpips(distances, variant=variant).value
        assert intra_lpips(3 * distances, variant=variant).value == pytest.approx(3 * value)
        assert intra_lpips(distances, variant=variant).value == value  # the same bits again
    shuffled = intra_lpips(distances[order][:, order], variant="medoid").value
    assert shuffled == pytest.approx(intra_lpips(distances, variant="medoid").value, rel=1e-12)


# --- clusterers


def test_planted_groups_are_found():
    positions = torch.arange(10.0).repeat_interleave(6) * 50 + torch.rand(
        60, generator=rng(0, "planted")
    )
    labels = faster_pam(on_a_line(positions.double()), 10)
    assert labels.view(10, 6).unique(dim=1).shape == (10, 1) and len(labels.unique()) == 10


def test_faster_pam_finds_the_best_of_all_medoids_in_small_sets():
    for seed in range(5):
        distances = blobs(12, seed)
        best = min(cost(distances, m) for m in itertools.combinations(range(12), 3))
        labels = faster_pam(distances, 3)
        groups = [distances[labels == k][:, labels == k] for k in range(3)]
        assert sum(g.sum(0).min().item() for g in groups) == pytest.approx(best, rel=1e-12)


def test_alternating_stops_where_no_cluster_has_a_better_middle_and_above_faster_pam():
    distances = blobs(250)
    medoids = alternating_medoids(distances, 10)
    labels = distances[:, medoids].argmin(1)
    for k, medoid in enumerate(medoids):
        inside = distances[labels == k][:, labels == k]
        assert inside.sum(1).min() >= distances[labels == k, medoid].sum() - 1e-12
    groups = faster_pam(distances, 10)
    best = sum(distances[groups == k][:, groups == k].sum(0).min().item() for k in range(10))
    assert cost(distances, medoids) > 1.01 * best  # the deviation that AIR's numbers carry


# --- intervals


@pytest.mark.parametrize("variant", ["within", "medoid"])
def test_interval_is_as_wide_as_that_of_independent_sets_and_seeded(variant):
    values = [intra_lpips(blobs(200, seed), variant=variant).value for seed in range(1, 41)]
    distances = blobs(200)
    low, high = intra_lpips_interval(distances, rng(0, "i"), variant=variant)
    assert (low + high) / 2 == pytest.approx(intra_lpips(distances, variant=variant).value)
    spread = 2 * 1.96 * torch.tensor(values).std().item()
    assert high - low == pytest.approx(spread, rel=0.4)
    assert intra_lpips_interval(distances, rng(0, "i"), variant=variant) == (low, high)


def test_interval_of_fixed_centres_takes_their_rows_along():
    distances = blobs(60)
    interval = intra_lpips_interval(
        distances, rng(0, "i"), variant="centres", centres=distances[:, :4], draws=10
    )
    value = intra_lpips(distances, variant="centres", centres=distances[:, :4]).value
    assert interval[0] < value < interval[1]


# --- bad input


def changed(i: int, j: int, value: float) -> Tensor:
    distances = on_a_line(LINE)
    distances[i, j] = value
    return distances


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (torch.zeros(3, 4), r"expected distances \[N, N\], got \[3, 4\]"),
        (torch.zeros(0, 0), "expected distances"),
        (changed(1, 2, math.nan), "NaN"),
        (changed(1, 2, math.inf), "infinite"),
        (changed(1, 2, 7.0), "not symmetric"),
        (changed(1, 1, 7.0), r"d\(i, i\) must be 0"),
        (-on_a_line(LINE), "negative"),
    ],
)
def test_what_is_no_matrix_of_distances_is_refused(distances, message):
    for variant in VARIANTS[:2]:
        with pytest.raises(AirlibError, match=message):
            intra_lpips(distances, 2, variant)


def test_impossible_clusters_are_refused():
    distances = on_a_line(LINE)
    for clusters in (0, 7, 10):
        with pytest.raises(AirlibError, match=f"{clusters} clusters of 6 images"):
            intra_lpips(distances, clusters)
    with pytest.raises(AirlibError, match="no cluster has a pair"):
        intra_lpips(distances, 6)
    assert intra_lpips(distances, 6, "medoid").value == 0
    with pytest.raises(AirlibError, match="3 images"):
        intra_lpips_interval(distances, rng(0), clusters=4)


def test_unknown_variants_and_missing_centres_are_refused():
    distances = on_a_line(LINE)
    for variant, centres in (("paper", None), ("centres", None), ("within", distances)):
        with pytest.raises(AirlibError, match="within, medoid, centres"):
            intra_lpips(distances, 2, variant, centres)
    for centres in (distances[:4], distances[0], torch.full((6, 2), math.nan)):
        with pytest.raises(AirlibError, match="centres"):
            intra_lpips(distances, variant="centres", centres=centres)
