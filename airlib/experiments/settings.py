"""Choosing the numbers of the tiny profile: a recorded sweep over development pairs.

    table = summarise(read_plan("settings"), load_runs(SHIPPED_SETTINGS))
    table[0]["candidate"], table[0]["mean"]           # the best of the first group

The plan changes a few numbers of a method at a time and runs them on all pairs of role
"development", with a seed that no result table uses. What counts is the distance to the true target
of the same latent. The record says what was tried, what may move at which learning rate, and what
the alternatives to the frozen settings would have given.
"""

from collections.abc import Mapping
from typing import Any

from airlib.experiments.plan import Plan


def summarise(
    plan: Plan, known: Mapping[str, Any], metric: str = "paired_feature"
) -> list[dict[str, Any]]:
    """Per candidate, which is a method with some of its numbers changed: its mean over pairs and
    seeds as a share of the untouched source's, per pair too; best first within its group.

    plan: its grids are the groups. known: records of its runs (`load_runs`).
    """
    grids = plan.grids_in(known)
    source = {run.pair: run.value(metric) for run in grids.pop("") if run.method == "source"}
    table = []
    for group, runs in grids.items():
        for name in dict.fromkeys(run.label for run in runs):
            own = [run for run in runs if run.label == name]
            shares = {
                pair: _mean([run.value(metric) / value for run in own if run.pair == pair])
                for pair, value in source.items()
            }
            mean = _mean(list(shares.values()))
            table.append({"group": group, "candidate": name, "mean": mean, **shares})
    return sorted(table, key=lambda row: (row["group"], row["mean"]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
