"""The recorded choice of the tiny profile's numbers."""

import pytest

from airlib.experiments.plan import Plan, read_plan
from airlib.experiments.runs import SHIPPED_SETTINGS, load_runs
from airlib.experiments.settings import summarise
from airlib.profiles import load_profile

PLAN = Plan.of({
    "pairs": ["human-cat", "human-fox"], "seeds": [100, 101],
    "grids": [{"name": "g", "methods": ["nada"], "options": {"steps": [80, 20]}}],
})  # fmt: skip
VALUES = {
    "human-cat-source-0": 4.0,
    "human-fox-source-0": 2.0,
    "human-cat-nada-100-steps=80": 3.0,
    "human-fox-nada-100-steps=80": 1.0,
    "human-cat-nada-100-steps=20": 1.0,
    "human-cat-nada-101-steps=20": 2.0,
    "human-fox-nada-100-steps=20": 2.5,
}


def record(name: str, value: float) -> dict:
    method = name.split("-")[2] + (" " + name.split("-")[4] if "steps" in name else "")
    metric = {"name": "paired_feature", "value": value, "n": 9, "interval": None}
    return {"metrics": [metric | {"protocol": "by hand", "method": method}]}


def test_candidates_are_ranked_by_the_mean_share_of_the_source_over_pairs():
    known = {name: record(name, value) for name, value in VALUES.items()}
    slow, fast = summarise(PLAN, known)
    assert slow["candidate"] == "nada steps=80" and fast["candidate"] == "nada steps=20"
    assert slow["human-cat"] == 0.75 and slow["human-fox"] == 0.5 and slow["group"] == "g"
    assert slow["mean"] == 0.625
    assert fast["human-cat"] == 0.375 and fast["human-fox"] == 1.25  # seeds first, then pairs
    assert fast["mean"] == 0.8125


def test_numbers_are_chosen_on_pairs_and_seeds_that_no_table_uses():
    plan, pairs = read_plan("settings"), load_profile("tiny").pairs
    development = plan.chosen_pairs()
    assert len(development) == 4 and min(plan.seeds) >= 100
    targets = {pairs[name].target for name in development}
    table = {pair.target for pair in pairs.values() if pair.role == "table"}
    assert targets - table == targets - {"cat/adult/photo"}  # the cat, reached from a dog there


@pytest.mark.parametrize("method", ["nada", "air"])
def test_the_profile_holds_numbers_that_its_record_supports(method):
    """Of what moves synthesis weights nothing tried is better by more than a hundredth."""
    plan, numbers = read_plan("settings"), load_profile("tiny").methods[method]
    known = load_runs(SHIPPED_SETTINGS)
    left = {row["candidate"]: row["mean"] for row in summarise(plan, known)}
    runs = [run for group, runs in plan.grids_of_runs().items() if group for run in runs]
    assert left.keys() == {run.label for run in runs}
    own = {
        run.label: dict(run.options)
        for run in runs
        if run.method == method and "parameterization" not in dict(run.options)
    }
    used = [name for name, changes in own.items() if changes.items() <= dict(numbers).items()]
    assert left[used[0]] <= min(left[name] for name in own) + 0.01
