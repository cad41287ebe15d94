"""Tables and contrasts against hand-worked numbers."""

import math
from dataclasses import asdict

import pytest
import torch

from airlib.errors import AirlibError
from airlib.evaluation.comparison import (
    contrasts,
    improvements,
    p_text,
    path_coordinates,
    sentence,
    shares_left,
    summary,
)
from airlib.results import Metric
from airlib.seeding import rng


def metrics(table, name="frechet"):
    return [
        Metric(name, value, 10, None, "by hand", pair, method, seed)
        for (pair, method), values in table.items()
        for seed, value in enumerate(values)
    ]


HAND = {
    ("a", "source"): [9.0],
    ("a", "nada"): [3.0, 5.0],
    ("a", "air"): [2.0, 2.0],
    ("b", "nada"): [1.0, 1.0],
    ("b", "air"): [4.0, 2.0],
}


def test_a_cell_is_the_mean_over_seeds_with_students_interval():
    row_a, row_b = summary(metrics(HAND), "frechet")
    assert row_a["pair"] == "a" and row_b["pair"] == "b"
    nada = row_a["nada"]
    assert nada.value == 4 and nada.seeds == 2
    # t(1 degree, 97.5 %) = 12.7062; sd = sqrt(2); half width = 12.7062 * sqrt(2) / sqrt(2)
    assert nada.interval[1] - nada.value == pytest.approx(12.7062, abs=1e-3)
    assert row_a["source"].interval is None and str(row_a["source"]) == "9"
    assert "source" not in row_b


def test_a_contrast_compares_run_by_run():
    (row,) = contrasts(metrics(HAND), "air", "nada", ["frechet"], rng(0))
    assert row["difference"] == pytest.approx((-1 - 3 + 3 + 1) / 4)
    assert row["won"] == ["a"] and row["runs"] == 4
    assert row["p"] == 1  # a sum of 0 is never further from 0 than any other


def test_more_diversity_and_less_distance_win():
    table = {("a", "nada"): [1.0, 1.0], ("a", "air"): [2.0, 2.0]}
    for name, better in (("diversity", "air"), ("frechet", "nada")):
        (row,) = contrasts(metrics(table, name), "air", "nada", [name], rng(0))
        assert row["better"] == better and (row["won"] == ["a"]) == (better == "air")


def test_improvement_is_the_share_of_the_sources_distance_that_is_gone():
    table = {("a", "source"): [8.0], ("a", "nada"): [3.0, 5.0], ("a", "air"): [2.0, 2.0]}
    table |= {("b", "source"): [2.0], ("b", "nada"): [3.0, 3.0], ("b", "air"): [1.0, 1.0]}
    table |= {("a", "truth"): [0.1], ("b", "truth"): [0.1]}
    found = {row["method"]: row for row in improvements(metrics(table), ["frechet"])}
    assert list(found) == ["nada", "air"]
    assert found["nada"]["improved"] == ["a"] and found["nada"]["mean"] == (0.5 - 0.5) / 2
    assert found["air"]["improved"] == ["a", "b"] and found["air"]["mean"] == (0.75 + 0.5) / 2


def test_options_are_compared_by_what_they_leave_of_the_source():
    values = {"source": (8.0, 2.0), "air t_int=0.1": (4.0, 2.0), "air t_int=0.2": (2.0, 0.5)}
    runs = {
        f"{pair} {method}": {
            "inputs": {"options": {"t_int": method[-3:]}} if "=" in method else {},
            "metrics": [asdict(m) for m in metrics({(pair, method): [values[method][i]]})],
        }
        for i, pair in enumerate("ab")
        for method in values
    }
    assert shares_left(runs, ["frechet"]) == [
        {"method": "air", "t_int": "0.1", "frechet": (4 / 8 + 2 / 2) / 2},
        {"method": "air", "t_int": "0.2", "frechet": (2 / 8 + 0.5 / 2) / 2},
    ]
    assert shares_left({}, ["frechet"]) == []


def test_words_say_how_sure_the_numbers_are():
    (row,) = contrasts(metrics(HAND), "air", "nada", ["frechet"], rng(0))
    assert "on 1 of 2 pairs (better on a)" in sentence(row, "air", "nada", 2)
    assert "chance alone" in sentence(row, "air", "nada", 2)
    assert p_text(0.0) == "p < 0.001" and p_text(0.0421) == "p = 0.042"


def test_an_unknown_metric_is_refused():
    with pytest.raises(AirlibError, match="no metric called 'fid'"):
        summary(metrics(HAND), "fid")


def test_coordinates_on_the_way_from_source_to_target():
    source, target = torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 2, 0])
    points = torch.stack([source, target, torch.tensor([1.0, 1, 1])])
    (a, b, c) = path_coordinates(points, source, target)
    assert a == (0, 0) and b == (1, 0)
    assert c == pytest.approx((0.5, 0.5))


def test_coordinates_do_not_depend_on_position_rotation_or_scale():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    moved = 3 * points @ rotation + 1
    before = path_coordinates(points[2:], points[0], points[1])
    after = path_coordinates(moved[2:], moved[0], moved[1])
    for x, y in zip(before, after, strict=True):
        assert math.dist(x, y) < 1e-12


def test_no_way_between_equal_points():
    with pytest.raises(AirlibError, match="no way between"):
        path_coordinates(torch.ones(1, 2), torch.ones(2), torch.ones(2))
