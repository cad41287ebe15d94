"""The papers' tables as data, and what our results files say beside them.

    tables = load_tables()                    # AIR, Tables 1 to 4, and HyperDomainNet, Table 1
    measured, _ = read_measured("runs/tiny")  # notebook -> metrics
    columns, rows = side_by_side(tables["air-1"], measured, "tiny")  # "0.3327 | 0.11 ± 0.02 (...)"
    gains = rankings(tables["air-1"], measured, "AIR", "NADA", rng(0, "rankings"))

Paper and tiny profile are different worlds with different networks: their values share no scale.
What can be compared is which of two methods is ahead, and only where ours has an interval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from airlib.documents import read_toml
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
    """A metric as a paper reports it.

    title: with an arrow to the better side. better: "larger" or "smaller". digits: decimal places
    in the paper. ours: names of our metrics that may stand beside it, the preferred one first.
    """

    title: str
    better: str
    digits: int
    ours: list[str]


@dataclass(frozen=True)
class Row:
    """One line of a paper's table: a setup under one metric.

    table: key of its `PaperTable`. row: the setup. values: by the name that the paper gives a
    method. pairs: those of our profiles with the same two concepts. n: answers of raters behind the
    values of a user study, else 0.
    """

    table: str
    row: str
    metric: Measure
    values: dict[str, float]
    pairs: tuple[str, ...] = ()
    n: int = 0


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper.

    source: paper and table number. setting: how the paper's values were made. notebook: the one
    whose results stand beside them. methods: the paper's name of a method -> ours.
    """

    title: str
    source: str
    setting: str
    notebook: str
    methods: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A question that AIR's text and AIR's code answer differently.

    paper, code, here: what each does, `here` being airlib. effect: key under which notebook 06
    measures what the choice changes, "" where it does not.
    """

    question: str
    paper: str
    code: str
    here: str
    effect: str = ""


# --- the file ------------------------------------------------------------------------------------


def load_tables(path: str | Path | None = None) -> dict[str, PaperTable]:
    """The papers' tables by name, from `paper_tables.toml` or another file of the same form.

    Raises AirlibError for unknown or missing keys and names, values that are no numbers, and rows
    that occur twice.
    """
    content = _read(path)
    try:
        return _tables(content)
    except (AttributeError, TypeError) as error:
        raise AirlibError(f"the tables hold a value of a wrong type: {error}") from error


def _tables(content: dict[str, Any]) -> dict[str, PaperTable]:
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
    """Where AIR's paper and its official code disagree, from `paper_tables.toml` or another file of
    the same form. Raises AirlibError if the file cannot be read or an entry has unknown keys.
    """
    return [_make(Difference, entry, "difference") for entry in _read(path)["differences"]]


def _read(path: str | Path | None) -> dict[str, Any]:
    file = Path(path or Path(__file__).with_name("paper_tables.toml"))
    content = read_toml(file, "correct it, or name another file of tables")
    expected = {"metrics": dict, "tables": dict, "rows": list, "differences": list}
    if content.keys() != expected.keys() or any(
        not isinstance(content[name], kind) for name, kind in expected.items()
    ):
        raise AirlibError(f"{file.name} must hold {', '.join(expected)}, and nothing else")
    return content


def _make(kind: type[Any], entry: Any, where: str) -> Any:
    """A dataclass from a table of the file."""
    try:
        return kind(**entry)
    except TypeError as error:
        known = ", ".join(part.name for part in fields(kind))
        raise AirlibError(f"{where}: {error}; a {kind.__name__} has {known}") from error


# --- ours ----------------------------------------------------------------------------------------


def read_measured(folder: str | Path) -> tuple[dict[str, list[Metric]], list[str]]:
    """({notebook: metrics}, notebooks left out), of `<folder>/<notebook>/results.json` for every
    notebook that a table is compared with.

    Left out are dry runs and runs that changed numbers of the profile. Raises AirlibError for a
    damaged file.
    """
    measured, left_out = {}, []
    compared = {table.notebook for table in load_tables().values()}
    for path in sorted(Path(folder).glob(f"*/{FILE_NAME}")):
        if path.parent.name not in compared:
            continue
        content = load_results(path)
        if content["parameters"].get("dry_run") or content["parameters"].get("overrides"):
            left_out.append(content["notebook"])
        else:
            measured[content["notebook"]] = [Metric(**entry) for entry in content["metrics"]]
    return measured, left_out


def from_runs(known: Mapping[str, Mapping]) -> list[Metric]:
    """The metrics of all runs in `known`, what `airlib.experiments.runs.load_runs` returns."""
    return [Metric(**entry) for run in known.values() for entry in run["metrics"]]


def side_by_side(
    table: PaperTable, measured: Measured, profile: str
) -> tuple[list[str], list[list[str]]]:
    """A paper's table with our values: (columns, rows) of text, a row per setup and metric.

    The cells are the setup, the metric, and per method "paper | ours (profile, seeds)", with "-"
    where the paper has no value and "not run" where we have none.
    """
    methods = list(dict.fromkeys(method for row in table.rows for method in row.values))
    rows = []
    for row in table.rows:
        metrics, cells = _of_row(table, row, measured), []
        ours = summary(metrics, metrics[0].name)[0] if metrics else {}
        for method in methods:
            cell = ours.get(table.methods.get(method, ""))
            paper = f"{row.values[method]:.{row.metric.digits}f}" if method in row.values else "-"
            cells.append(f"{paper} | {_text(cell, profile)}")
        rows.append([row.row, row.metric.title, *cells])
    return ["setup", "metric", *methods], rows


@dataclass(frozen=True)
class Ranking:
    """How much better one method is than another in one row, as a share of the other's value.

    row, metric: setup and title. paper: the paper's share, positive if the first method is better.
    ours: the same of our runs, None if nothing was run. interval: 95 % of `ours`, None for a single
    seed. seeds: how many runs of each method were compared.
    """

    row: str
    metric: str
    paper: float
    ours: float | None = None
    interval: Interval | None = None
    seeds: int = 0

    @property
    def agrees(self) -> bool:
        """Whether our runs have the same method ahead as the paper; False if nothing was run."""
        return self.ours is not None and (self.ours > 0) == (self.paper > 0)

    @property
    def is_clear(self) -> bool:
        """Whether the 95 % interval of `ours` excludes 0; False without an interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def rankings(
    table: PaperTable, measured: Measured, first: str, second: str, stream: torch.Generator
) -> list[Ranking]:
    """Compare two methods in every row of a table that reports both, ours seed by seed.

    first, second: the paper's names; a positive share says that `first` is better. stream: for the
    interval's bootstrap.
    """
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
            first_runs, second_runs = (
                {seed: runs[seed] / scale for seed in seeds} for runs in (a, b)
            )
            ours = paired_difference(first_runs, second_runs, stream)
            entry = replace(entry, ours=ours.mean, interval=ours.interval, seeds=ours.n)
        found.append(entry)
    return found


def draw_gains(
    axes: "Axes", gains: Mapping[str, Sequence[Ranking]], rival: str, profile: str
) -> None:
    """Draw by how many percent of `rival`'s value each method is better: a line per setup.

    gains: method -> its rankings against `rival`, for one metric, the same setups for every
    method. A hollow dot is the paper's gain, a full one ours with its interval, where there is one.
    Raises AirlibError for a method without a style (`showing.figures.method_style`).
    """
    from airlib.showing.figures import method_style

    for place, (method, rows) in enumerate(gains.items()):
        style = method_style(method)
        dot: dict[str, Any] = {"color": style["color"], "marker": style["marker"]}
        for y, row in enumerate(rows):
            paper, ours = (f"{method}, {who}" if y == 0 else None for who in ("paper", profile))
            height = y - 0.3 + 0.12 * place
            axes.plot(100 * row.paper, height, **dot, ls="", mfc="white", label=paper)
            if row.ours is not None:
                ends = [100 * end for end in row.interval or ()]
                axes.plot(ends, [y + 0.2] * len(ends), color=style["color"])
                axes.plot(100 * row.ours, y + 0.2, **dot, ls="", label=ours)
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


def _by_seed(metrics: Iterable[Metric], method: str | None) -> dict[int, float]:
    """Values of one method's runs; a value without a seed belongs to no run."""
    ours = [m for m in metrics if method and m.method == method]
    return {m.seed: m.value for m in ours if m.seed is not None}


def _text(cell: str | Cell | None, profile: str) -> str:
    if not isinstance(cell, Cell):
        return NOT_RUN
    return f"{cell} ({profile}, {cell.seeds} seed{'s' * (cell.seeds > 1)})"
