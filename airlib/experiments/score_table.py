"""What `airlib evaluate` measured: results as JSON, and the same as text.

    report = Report("tiny", "full", [Scored("human-baby-air-0", scores)])
    print(report.table())
    report.save(Path("scores.json"))

Where two methods made the same runs, they are compared run by run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from airlib.errors import printable
from airlib.evaluation.comparison import contrasts, sentence
from airlib.evaluation.features import LABELS
from airlib.evaluation.protocols import Scores
from airlib.files import write_json
from airlib.results import Metric, versions
from airlib.seeding import rng


@dataclass(frozen=True)
class Scored:
    """One adaptation or folder: its name, and what was and was not measured."""

    name: str
    scores: Scores
    skipped: tuple[str, ...] = ()  # unreadable files

    @property
    def owner(self) -> tuple[str | None, str | None, int | None]:
        first = self.scores.metrics[0]
        return first.pair, first.method, first.seed


@dataclass(frozen=True)
class Report:
    """What `evaluate_path` measured."""

    profile: str
    protocol: str
    scored: list[Scored]

    @property
    def metrics(self) -> list[Metric]:
        return [metric for one in self.scored for metric in one.scores.metrics]

    def save(self, path: Path) -> Path:
        """Write everything as JSON, whole or not at all."""
        omitted = [
            {"measure": measure, "of": one.name, "reason": reason}
            for one in self.scored
            for measure, reason in one.scores.omitted.items()
        ]
        content = {
            "profile": self.profile,
            "protocol": self.protocol,
            "versions": versions(),
            "metrics": [asdict(metric) for metric in self.metrics],
            "omitted": omitted,
            "skipped": {one.name: list(one.skipped) for one in self.scored if one.skipped},
        }
        return write_json(path, content)

    def table(self) -> str:
        """All of it as text in columns."""
        lines = []
        for one in self.scored:
            pair, method, seed = one.owner
            what = " ".join(str(part) for part in (method, pair and f"on {pair}") if part)
            by_seed = "" if seed is None else f", seed {seed}"
            lines += [printable(f"{one.name}: {what}{by_seed}, protocol {self.protocol}")]
            lines += _columns([_row(metric) for metric in one.scores.metrics])
            omitted = one.scores.omitted.items()
            lines += [printable(f"  not measured: {k}: {why}") for k, why in omitted]
        return "\n".join(lines + self.comparison())

    def comparison(self) -> list[str]:
        """Two methods run by run, a sentence per metric, where there are two with equal runs."""
        runs: dict[str | None, set] = {}
        for pair, method, seed in (one.owner for one in self.scored):
            runs.setdefault(method, set()).add((pair, seed))
        if len(runs) != 2 or len(set(map(frozenset, runs.values()))) != 1:
            return []
        everywhere = [{metric.name for metric in one.scores.metrics} for one in self.scored]
        names = [name for name in LABELS if all(name in there for there in everywhere)]
        first, second = map(str, runs)
        pairs = len({pair for of_method in runs.values() for pair, _ in of_method})
        rows = contrasts(self.metrics, first, second, names, rng(0, "evaluate", "comparison"))
        return [sentence(row, first, second, pairs) for row in rows]


def _row(metric: Metric) -> tuple[str, ...]:
    arrow = LABELS.get(metric.name, "")[-1:]
    better = {"↓": "lower", "↑": "higher"}.get(arrow, "")
    ends = "" if metric.interval is None else "{:.4g} .. {:.4g}".format(*metric.interval)
    return metric.name, better, f"{metric.value:.4g}", ends, str(metric.n), metric.protocol


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of aligned columns, the last one ragged."""
    rows = [("measure", "better", "value", "95 % interval", "n", "protocol"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    padded = [[cell.ljust(w) for cell, w in zip(row, widths, strict=False)] for row in rows]
    return ["  " + "  ".join([*cells, row[-1]]) for cells, row in zip(padded, rows, strict=True)]
