"""Who wins where: tables over pairs and seeds, and matched differences between two methods.

    rows = summary(metrics, "frechet")     # a row per pair, a column per method, mean over seeds
    rows = contrasts(metrics, "air", "nada", names, rng)   # a row per metric: difference, p, wins

All functions take the flat list of `Metric` that a sweep returns. Methods share latents and seeds,
so two methods are compared run by run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.features import LABELS
from airlib.evaluation.intervals import Interval, mean_interval, paired_difference
from airlib.results import Metric

Row = dict[str, Any]  # of a summary: "pair" -> its name, method -> its `Cell`

LARGER_IS_BETTER = tuple(name for name, title in LABELS.items() if title.endswith("↑"))


@dataclass(frozen=True)
class Cell:
    """Mean over seeds of one metric, with Student's t interval (None for a single seed)."""

    value: float
    interval: Interval | None
    seeds: int

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ± {(self.interval[1] - self.interval[0]) / 2:.2g}"


def values(metrics: Sequence[Metric], name: str) -> dict[str, dict[tuple[str, int], float]]:
    """{method: {(pair, seed): value}} of the metric `name`.

    Raises AirlibError if no entry of `metrics` has that name.
    """
    table: dict[str, dict[tuple[str, int], float]] = {}
    for metric in metrics:
        if metric.name == name:
            method, pair, seed = metric.method, metric.pair, metric.seed
            if method is None or pair is None or seed is None:
                raise AirlibError(f"{name}: only metrics of a method, pair and seed are compared")
            table.setdefault(method, {})[pair, seed] = metric.value
    if not table:
        raise AirlibError(f"no metric called {name!r} in these results")
    return table


def summary(metrics: Sequence[Metric], name: str) -> list[Row]:
    """The metric `name` as a table in the order the runs were made.

    A row per pair: "pair" -> its name, and each method -> a `Cell`, the mean over seeds.
    """
    by_method = values(metrics, name)
    pairs = list(dict.fromkeys(pair for runs in by_method.values() for pair, _ in runs))
    rows = []
    for pair in pairs:
        row: Row = {"pair": pair}
        for method, runs in by_method.items():
            found = [value for (p, _), value in runs.items() if p == pair]
            if found:
                row[method] = Cell(sum(found) / len(found), mean_interval(found), len(found))
        rows.append(row)
    return rows


def contrasts(
    metrics: Sequence[Metric], first: str, second: str, names: Sequence[str], rng: torch.Generator
) -> list[dict]:
    """Two methods compared run by run: a row for each metric in `names`.

    Keys: "metric"; "difference", the mean of first minus second over matched runs; "interval", its
    95 % interval (None for a single run); "p", the sign-flip p-value; "runs", how many were
    matched; "won", the pairs on which the first method has the better mean over seeds; "better",
    the method that is ahead over all runs. Raises AirlibError for unmatched runs.
    """
    rows = []
    for name in names:
        by_method = values(metrics, name)
        difference = paired_difference(by_method[first], by_method[second], rng)
        sign = 1 if name in LARGER_IS_BETTER else -1
        won = [
            row["pair"]
            for row in summary(metrics, name)
            if sign * (row[first].value - row[second].value) > 0
        ]
        rows.append(
            {
                "metric": name,
                "difference": difference.mean,
                "interval": difference.interval,
                "p": difference.p_value,
                "runs": difference.n,
                "won": won,
                "better": first if sign * difference.mean > 0 else second,
            }
        )
    return rows


def improvements(metrics: Sequence[Metric], names: Sequence[str]) -> list[dict]:
    """How far each method improves on the untouched source: a row per metric and method.

    Keys: "metric"; "method"; "improved", the pairs on which the method beats the source; "mean",
    the mean over pairs of 1 - value / source's value, values being means over seeds.
    """
    rows = []
    for name in names:
        table = summary(metrics, name)
        for method in (m for m in table[0] if m not in ("pair", "source", "truth")):
            shares = {row["pair"]: 1 - row[method].value / row["source"].value for row in table}
            improved = [pair for pair, share in shares.items() if share > 0]
            mean = sum(shares.values()) / len(shares)
            rows.append({"metric": name, "method": method, "improved": improved, "mean": mean})
    return sorted(rows, key=lambda row: row["method"], reverse=True)


def shares_left(runs: Mapping[str, dict], names: Sequence[str]) -> list[dict]:
    """One row per method and options of a sweep (`sweep.load_runs`): "method", each option, and per
    metric the mean over pairs of value / source's value. Empty if there are no runs.
    """
    metrics = [Metric(**metric) for run in runs.values() for metric in run["metrics"]]
    gained = improvements(metrics, names) if metrics else []
    left = {(row["method"], row["metric"]): 1 - row["mean"] for row in gained}
    options = {
        run["metrics"][0]["method"]: run["inputs"]["options"]
        for run in runs.values()
        if "options" in run["inputs"]
    }
    return [
        {"method": label.split()[0], **changed, **{name: left[label, name] for name in names}}
        for label, changed in options.items()
    ]


def sentence(row: dict, first: str, second: str, pairs: int) -> str:
    """A row of `contrasts` between `first` and `second` in words, uncertainty included.

    pairs: how many pairs were compared.
    """
    sure = "" if row["p"] < 0.05 else ", which chance alone could do"
    won = f" (better on {', '.join(row['won'])})" if 0 < len(row["won"]) < pairs else ""
    return (
        f"{row['metric']}: {first} is better than {second} on {len(row['won'])} of {pairs} "
        f"pairs{won}; over all {row['runs']} runs {row['better']} is ahead by "
        f"{abs(row['difference']):.3g} ({p_text(row['p'])}{sure})."
    )


def verdict(row: dict, claimed: str) -> str:
    """Whether a row of `contrasts` bears out that the method `claimed` is better.

    "held", "not held", or "not sure" where the difference has the right sign and chance alone could
    have made it (p >= 0.05).
    """
    if row["better"] != claimed:
        return "not held"
    return "held" if row["p"] < 0.05 else "not sure"


def about_equal(row: dict, reference: float, margin: float) -> str:
    """Whether the difference in a row of `contrasts` is small: at most `margin` of `reference`.

    margin: a share of the reference value. "held" if the whole interval lies within the margin,
    "not held" if no part of it does, else "not sure".
    """
    low, high = (end / reference for end in row["interval"])
    if max(abs(low), abs(high)) <= margin:
        return "held"
    return "not held" if low > margin or high < -margin else "not sure"


def p_text(p: float) -> str:
    """A p-value as it should be read: never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def path_coordinates(points: Tensor, source: Tensor, target: Tensor) -> list[tuple[float, float]]:
    """Where mean embeddings [K, D] lie on the way from `source` [D] to `target` [D].

    A pair per point: how far along the way, and how far off it, in units of the way's length. (0,
    0) is the source, (1, 0) the target. Raises AirlibError if source and target are the same.
    """
    points, source, target = points.cpu(), source.cpu(), target.cpu()
    way = target - source
    length = way.norm()
    if length == 0:
        raise AirlibError(
            "source and target have the same mean embedding; there is no way between them"
        )
    offsets = (points - source) / length
    along = offsets @ (way / length)
    off = (offsets - along[:, None] * (way / length)).norm(dim=1)
    return list(zip(along.tolist(), off.tolist(), strict=True))
