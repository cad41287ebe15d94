"""The papers' tables as data, and what our results files say beside them.

    tables = load_tables()                    # AIR, Tables 1 to 4, and HyperDomainNet, Table 1
    measured, _ = read_measured("runs/tiny")  # notebook -> metrics
    columns, rows = side_by_side(tables["air-1"], measured, "tiny")  # "0.3327 | 0.11 ± 0.02 (...)"
    gains = rankings(tables["air-1"], measured, "AIR", "NADA", rng(0, "rankings"))

Paper and tiny profile are different worlds with different networks: their values share no scale.
What can be compared is which of two methods is ahead, and only where ours has an interval.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from airlib.errors import AirlibError
from airlib.evaluation.comparison import Cell, summary
from airlib.evaluation.intervals import Interval, paired_difference
from airlib.results import FILE_NAME, Metric, load_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measured = Mapping[str, Sequence[Metric]]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Measure:
    """A metric of the papers; `ours` are the names of ours that may stand beside it."""

    title: str
    better: str
    digits: int
    ours: list[str]


@dataclass(frozen=True)
class Row:
    """One setup under one metric: values by the name that the paper gives a method.

    `pairs` are those of our profiles with the same two concepts; `n` counts answers of raters.
    """

    table: str
    row: str
    metric: Measure
    values: dict[str, float]
    pairs: tuple[str, ...] = ()
    n: int = 0


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper; `methods` says what our results call its columns."""

    title: str
    source: str
    setting: str
    notebook: str
    methods: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A question that AIR's text and AIR's code answer differently."""

    question: str
    paper: str
    code: str
    here: str
    effect: str = ""


# --- the file ------------------------------------------------------------------------------------


def load_tables(path: str | Path | None = None) -> dict[str, PaperTable]:
    """All tables by name; a file of the same form can be given.

    Raises AirlibError for unknown or missing keys and names, values that are no numbers, and rows
    that occur twice.
    """
    content = _read(path)
    measures = {name: _make(Measure, entry, name) for name, entry in content["metrics"].items()}
    rows: dict[str, dict[tuple, Row]] = {name: {} for name in content["tables"]}
    for number, entry in enumerate(content["rows"], start=1):
        row = _row(entry, measures, f"row {number}")
        key = row.row, row.metric.title
        if row.table not in rows or key in rows[row.table]:
            raise AirlibError(f"row {number}: table {row.table!r} is unknown or has it already")
        rows[row.table][key] = row
    return {
        name: _make(PaperTable, {**entry, "rows": tuple(rows[name].values())}, name)
        for name, entry in content["tables"].items()
    }


def _row(entry: dict, measures: Mapping[str, Measure], where: str) -> Row:
    row = _make(Row, entry, where)
    if row.metric not in measures:
        raise AirlibError(f"{where}: unknown metric {row.metric!r}; add it, or correct the name")
    numbers = [v for v in row.values.values() if isinstance(v, float) and math.isfinite(v)]
    if not numbers or len(numbers) < len(row.values):
        raise AirlibError(f"{where}: values must be numbers with a decimal point, by method")
    return replace(row, metric=measures[row.metric], pairs=tuple(row.pairs))


def load_differences(path: str | Path | None = None) -> list[Difference]:
    """Where AIR's paper and its official code disagree."""
    return [_make(Difference, entry, "difference") for entry in _read(path)["differences"]]


def _read(path: str | Path | None) -> dict[str, Any]:
    file = Path(path) if path else resources.files(__package__) / "paper_tables.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirlibError(f"cannot read the tables in {file.name}: {error}") from error
    expected = {"metrics": dict, "tables": dict, "rows": list, "differences": list}
    if content.keys() != expected.keys() or any(
        not isinstance(content[name], kind) for name, kind in expected.items()
    ):
        raise AirlibError(f"{file.name} must hold {', '.join(expected)}, and nothing else")
    return content


def _make(kind: type, entry: Any, where: str) -> Any:
    """A dataclass from a table of the file."""
    try:
        return kind(**entry)
    except TypeError as error:
        known = ", ".join(kind.__dataclass_fields__)
        raise AirlibError(f"{where}: {error}; a {kind.__name__} has {known}") from error


# --- ours ----------------------------------------------------------------------------------------


def read_measured(folder: str | Path) -> tuple[dict[str, list[Metric]], list[str]]:
    """The metrics of every `<folder>/<notebook>/results.json`, and the notebooks that were left out
    because they were dry runs or changed numbers of the profile.
    """
    measured, left_out = {}, []
    for path in sorted(Path(folder).glob(f"*/{FILE_NAME}")):
        content = load_results(path)
        if content["parameters"].get("dry_run") or content["parameters"].get("overrides"):
            left_out.append(content["notebook"])
        else:
            measured[content["notebook"]] = [Metric(**entry) for entry in content["metrics"]]
    return measured, left_out


def from_runs(known: Mapping[str, Mapping]) -> list[Metric]:
    """The metrics of `airlib.experiments.sweep.load_runs`."""
    return [Metric(**entry) for run in known.values() for entry in run["metrics"]]


def side_by_side(
    table: PaperTable, measured: Measured, profile: str
) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of text: setup, metric, and "paper | ours (profile, seeds)" per method."""
    methods = list(dict.fromkeys(method for row in table.rows for method in row.values))
    rows = []
    for row in table.rows:
        metrics, cells = _of_row(table, row, measured), []
        ours = summary(metrics, metrics[0].name)[0] if metrics else {}
        for method in methods:
            cell = ours.get(table.methods.get(method))
            paper = f"{row.values[method]:.{row.metric.digits}f}" if method in row.values else "-"
            cells.append(f"{paper} | {_text(cell, profile)}")
        rows.append([row.row, row.metric.title, *cells])
    return ["setup", "metric", *methods], rows


@dataclass(frozen=True)
class Ranking:
    """How much better one method is than another in one row, as a share of the other's value.

    `paper` has no interval; `ours` is None where nothing was run, its interval where there is one
    seed only.
    """

    row: str
    metric: str
    paper: float
    ours: float | None = None
    interval: Interval | None = None
    seeds: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the same method is ahead here."""
        return self.ours is not None and (self.ours > 0) == (self.paper > 0)

    @property
    def is_clear(self) -> bool:
        """Whether the interval of ours excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def rankings(
    table: PaperTable, measured: Measured, first: str, second: str, stream: torch.Generator
) -> list[Ranking]:
    """`first` against `second` in every row of the table that reports both, seed by seed."""
    found = []
    for row in (row for row in table.rows if {first, second} <= row.values.keys()):
        sign = 1 if row.metric.better == "larger" else -1
        entry = Ranking(
            row.row, row.metric.title, sign * (row.values[first] / row.values[second] - 1)
        )
        metrics = _of_row(table, row, measured)
        a, b = (_by_seed(metrics, table.methods.get(method)) for method in (first, second))
        if seeds := sorted(a.keys() & b.keys()):
            scale = sign * sum(b[seed] for seed in seeds) / len(seeds)
            runs = [{seed: runs[seed] / scale for seed in seeds} for runs in (a, b)]
            ours = paired_difference(*runs, stream)
            entry = replace(entry, ours=ours.mean, interval=ours.interval, seeds=ours.n)
        found.append(entry)
    return found


def draw_gains(
    axes: "Axes", gains: Mapping[str, Sequence[Ranking]], rival: str, profile: str
) -> None:
    """By how many percent of `rival`'s value each method is better than it: a line per setup.

    gains: method -> its rankings against `rival`, for one metric, the same setups for every
    method. A hollow dot is the paper's gain, a full one ours with its interval, where there is one.
    Raises AirlibError for a method without a style (`showing.figures.method_style`).
    """
    from airlib.showing.figures import method_style

    for place, (method, rows) in enumerate(gains.items()):
        style = method_style(method)
        dot = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
        for y, row in enumerate(rows):
            paper, ours = (f"{method}, {who}" if y == 0 else None for who in ("paper", profile))
            height = y - 0.3 + 0.12 * place
            axes.plot(100 * row.paper, height, **dot, markerfacecolor="white", label=paper)
            if row.ours is not None:
                ends = [100 * end for end in row.interval or ()]
                axes.plot(ends, [y + 0.2] * len(ends), color=style["color"])
                axes.plot(100 * row.ours, y + 0.2, **dot, label=ours)
    setups = [row.row for row in next(iter(gains.values()))]
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(setups)), setups)
    axes.set(
        xlabel=f"better than {rival} by (% of {rival}'s value)", ylim=(len(setups) - 0.5, -0.5)
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _of_row(table: PaperTable, row: Row, measured: Measured) -> list[Metric]:
    """Ours for one row, under the first of the names that we have."""
    of_pair = [m for m in measured.get(table.notebook, ()) if m.pair in row.pairs]
    for name in row.metric.ours:
        if found := [metric for metric in of_pair if metric.name == name]:
            return found
    return []


def _by_seed(metrics: Iterable[Metric], method: str | None) -> dict[int | None, float]:
    return {m.seed: m.value for m in metrics if method and m.method == method}


def _text(cell: Cell | None, profile: str) -> str:
    if cell is None:
        return NOT_RUN
    return f"{cell} ({profile}, {cell.seeds} seed{'s' * (cell.seeds > 1)})"
