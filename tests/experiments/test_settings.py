"""The recorded choice of the tiny profile's numbers."""

import pytest

from airlib.errors import AirlibError
from airlib.experiments.settings import (
    SEEDS,
    candidates,
    development_pairs,
    load_settings,
    save_settings,
    summarise,
)
from airlib.profiles import load_profile


def row(candidate: str, pair: str, value: float, seed: int = 100, method: str = "nada") -> dict:
    return {"group": "g", "candidate": candidate, "method": method, "pair": pair, "seed": seed,
            "paired_feature": value}  # fmt: skip


ROWS = [
    row("source", "a", 4.0, method="source"),
    row("source", "b", 2.0, method="source"),
    row("slow", "a", 3.0),
    row("slow", "b", 1.0),
    row("fast", "a", 1.0, seed=100),
    row("fast", "a", 2.0, seed=101),
    row("fast", "b", 2.5),
]


def test_candidates_are_ranked_by_the_mean_share_of_the_source_over_pairs():
    table = {entry["candidate"]: entry for entry in summarise(ROWS)}
    assert table["slow"]["a"] == 0.75 and table["slow"]["b"] == 0.5
    assert table["slow"]["mean"] == 0.625
    assert table["fast"]["a"] == 0.375 and table["fast"]["b"] == 1.25  # seeds first, then pairs
    assert table["fast"]["mean"] == 0.8125
    assert table["source"]["mean"] == 1
    order = [entry["candidate"] for entry in summarise(ROWS)]
    assert order == ["slow", "fast", "source"]


def test_every_candidate_is_a_change_that_the_profile_accepts():
    names = [candidate.name for candidate in candidates()]
    assert len(set(names)) == len(names)
    for candidate in candidates():
        load_profile("tiny", candidate.overrides())


def test_numbers_are_chosen_on_pairs_and_seeds_that_no_table_uses():
    pairs = load_profile("tiny").pairs
    development = development_pairs()
    assert len(development) == 4 and min(SEEDS) >= 100
    targets = {pairs[name].target for name in development}
    table = {pair.target for pair in pairs.values() if pair.role == "table"}
    assert targets - table == targets - {"cat/adult/photo"}  # the cat, reached from a dog there


def test_the_profile_holds_numbers_that_its_record_supports():
    """Of what moves synthesis weights nothing tried is better by more than a hundredth."""
    record, methods = load_settings(), load_profile("tiny").methods
    assert record["pairs"] == development_pairs() and record["seeds"] == list(SEEDS)
    left = {row["candidate"]: row["mean"] for row in summarise(record["rows"]) if row["group"]}
    assert left.keys() == {candidate.name for candidate in candidates()}
    for method in ("nada", "air"):
        own = [
            c for c in candidates() if c.method == method and "parameterization" not in c.changes
        ]
        used = [c for c in own if all(methods[method][k] == v for k, v in c.changes.items())]
        assert left[used[0].name] <= min(left[c.name] for c in own) + 0.01


def test_a_record_comes_back_and_its_absence_is_explained(tmp_path):
    path = save_settings(ROWS, tmp_path / "settings.json")
    record = load_settings(path)
    assert record["rows"] == ROWS and record["pairs"] == development_pairs()
    with pytest.raises(AirlibError, match="airlib choose-settings"):
        load_settings(tmp_path / "missing.json")
