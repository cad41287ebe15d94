"""Who wins where: tables over pairs and seeds, and matched differences between two methods.

    rows = summary(metrics, "frechet")     # a row per pair, a column per method, mean over seeds
    rows = contrasts(metrics, "air", "nada", names, rng)   # a row per metric: difference, p, wins

All functions take the flat list of `Metric` that a sweep returns. Methods share latents and seeds,
so two methods are compared run by run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.features import LABELS
from airlib.evaluation.intervals import Interval, mean_interval, paired_difference
from airlib.results import Metric

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
    """{method: {(pair, seed): value}} of one metric."""
    table: dict[str, dict[tuple[str, int], float]] = {}
    for metric in metrics:
        if metric.name == name:
            owner = str(metric.pair), cast(int, metric.seed)
            table.setdefault(str(metric.method), {})[owner] = metric.value
    if not table:
        raise AirlibError(f"no metric called {name!r} in these results")
    return table


def summary(metrics: Sequence[Metric], name: str) -> list[dict[str, Any]]:
    """One row per pair: {"pair": its name, method: a `Cell`, ...}, in the order of the runs."""
    by_method = values(metrics, name)
    pairs = list(dict.fromkeys(pair for runs in by_method.values() for pair, _ in runs))
    rows = []
    for pair in pairs:
        row: dict[str, Any] = {"pair": pair}
        for method, runs in by_method.items():
            found = [value for (p, _), value in runs.items() if p == pair]
            if found:
                row[method] = Cell(sum(found) / len(found), mean_interval(found), len(found))
        rows.append(row)
    return rows


def contrasts(
    metrics: Sequence[Metric], first: str, second: str, names: Sequence[str], rng: torch.Generator
) -> list[dict]:
    """Per metric: first minus second over matched runs, its interval, a sign-flip p-value, and who
    wins.

    A pair is won by the method with the better mean over seeds.
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
    """Per metric and method: the pairs on which it beats the untouched source, and by how much.

    `mean` is the mean over pairs of 1 - value / source's value, values being means over seeds.
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
    """A contrast in words, with the uncertainty in them."""
    sure = "" if row["p"] < 0.05 else ", which chance alone could do"
    won = f" (better on {', '.join(row['won'])})" if 0 < len(row["won"]) < pairs else ""
    return (
        f"{row['metric']}: {first} is better than {second} on {len(row['won'])} of {pairs} "
        f"pairs{won}; over all {row['runs']} runs {row['better']} is ahead by "
        f"{abs(row['difference']):.3g} ({p_text(row['p'])}{sure})."
    )


def verdict(row: dict, claimed: str) -> str:
    """Whether a contrast bears out that the method `claimed` is better: held, not held, not sure.

    "not sure" where the difference has the right sign and chance alone could have made it.
    """
    if row["better"] != claimed:
        return "not held"
    return "held" if row["p"] < 0.05 else "not sure"


def about_equal(row: dict, reference: float, margin: float) -> str:
    """Whether a contrast's whole interval lies within `margin` (a share) of a reference value:
    held, not held (no part of it does), or not sure.
    """
    low, high = (end / reference for end in row["interval"])
    if max(abs(low), abs(high)) <= margin:
        return "held"
    return "not held" if low > margin or high < -margin else "not sure"


def p_text(p: float) -> str:
    """A p-value as it should be read: never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def path_coordinates(points: Tensor, source: Tensor, target: Tensor) -> list[tuple[float, float]]:
    """Where mean embeddings [K, D] lie on the way from `source` to `target` [D], and how far off
    it.

    (0, 0) is the source, (1, 0) the target; both coordinates are in units of their distance.
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
