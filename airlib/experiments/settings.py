"""Choosing the numbers of the tiny profile: a recorded sweep over development pairs.

Every candidate changes a few numbers of the profile and is run on all pairs of role "development",
with seeds that no result table uses. What counts is the distance to the true target of the same
latent. The record says what was tried, what may move at which learning rate, and what the
alternatives to the frozen settings would have given.

    airlib choose-settings --out runs/settings
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airlib.errors import AirlibError
from airlib.experiments.sweep import SHIPPED_RUNS, Run, sweep
from airlib.files import write_json
from airlib.profiles import load_profile, pairs_of_role

SHIPPED = SHIPPED_RUNS / "tiny_settings.json"
SEEDS = (100,)  # the tables use 0, 1, 2, ...
MEASURED = (
    "paired_feature",
    "paired_edge",
    "frechet",
    "frechet_vit",
    "clip_truth_gap",
    "diversity",
)


@dataclass(frozen=True)
class Candidate:
    """Numbers of one method to try; `changes` are entries of its table in the profile."""

    group: str
    method: str
    changes: Mapping[str, float | int | str]

    @property
    def name(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.changes.items())])

    def overrides(self) -> dict:
        """The changes under their dotted names, for `load_profile`."""
        table = "arms" if self.method in load_profile("tiny").arms else "methods"
        return {f"{table}.{self.method}.{key}": value for key, value in self.changes.items()}


def candidates() -> list[Candidate]:
    """What is tried: amount of movement, views, what may move, the knobs of AIR and of
    HyperDomainNet.
    """
    amount = [
        Candidate("amount", "nada", {"learning_rate": rate, "steps": steps})
        for rate, steps in ((0.0005, 80), (0.001, 50), (0.001, 80), (0.002, 30), (0.002, 50))
    ]
    views = [Candidate("views", "nada", {"views": 4})]
    moving = [
        Candidate("what may move", "nada", {"parameterization": name, "learning_rate": rate})
        for name, rates in {
            "layers5": (0.001,),
            "affine": (0.005,),
            "domain_vector": (0.03,),
            "domain_embedding": (0.03, 0.06),
        }.items()
        for rate in rates
    ]
    air = [
        Candidate("AIR", "air", {"t_thresh": start, "prompt_learning_rate": rate})
        for start, rate in ((0.3, 0.01), (0.6, 0.01), (0.6, 0.002))
    ]
    vector = [Candidate("domain vector", "d", {"learning_rate": r}) for r in (0.02, 0.03, 0.05)]
    vector += [
        Candidate("domain vector", "d", {"parameterization": "domain_vector_post", **rate})
        for rate in ({"learning_rate": 0.01}, {"learning_rate": 0.03})
    ]
    angle = [
        Candidate("in-domain angle", arm, {"in_domain_angle": weight})
        for arm in ("nada_angle", "d_angle")
        for weight in (0.3, 1.0, 3.0)
    ]
    return amount + views + moving + air + vector + angle


def run_candidates(
    chosen: Sequence[Candidate], directory: str | Path, seeds: Sequence[int] = SEEDS,
    workers: int = 2,
) -> list[dict]:  # fmt: skip
    """Run every candidate on every development pair; restartable. One row per run."""
    pairs = development_pairs()
    rows = _rows(sweep("tiny", [], pairs, [], directory, workers=workers), "", "")
    for candidate in chosen:
        place = Path(directory) / candidate.name.replace(" ", "_")
        overrides = candidate.overrides()
        runs = sweep("tiny", [candidate.method], pairs, seeds, place, overrides, workers, rows=())
        rows += _rows(runs, candidate.group, candidate.name)
    return rows


def _rows(runs: Sequence[Run], group: str, candidate: str) -> list[dict]:
    return [
        {"group": group, "candidate": candidate or run.method, "method": run.method}
        | {"pair": run.pair, "seed": run.seed}
        | {m.name: round(m.value, 5) for m in run.metrics if m.name in MEASURED}
        for run in runs
    ]


def development_pairs() -> list[str]:
    """Names of the pairs on which numbers may be chosen."""
    return pairs_of_role(load_profile("tiny"), "development")


def save_settings(rows: list[dict], path: str | Path) -> Path:
    """Write the record: what was run, on what, and every row."""
    record = {
        "command": "airlib choose-settings",
        "pairs": development_pairs(),
        "seeds": sorted({row["seed"] for row in rows if row["group"]}),
        "rows": rows,
    }
    return write_json(path, record)


def load_settings(path: str | Path = SHIPPED) -> dict:
    """Read what `save_settings` wrote; by default the sweep that the tiny profile was chosen by."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirlibError(
            f"no record of a settings sweep at {path}; run `airlib choose-settings`"
        ) from error


def summarise(rows: Sequence[dict], metric: str = "paired_feature") -> list[dict]:
    """Per candidate: its mean over pairs and seeds as a share of the untouched source's, per pair
    too; best first within its group.
    """
    source = {row["pair"]: row[metric] for row in rows if row["method"] == "source"}
    table = []
    for name in dict.fromkeys(row["candidate"] for row in rows):
        own = [row for row in rows if row["candidate"] == name]
        shares = {
            pair: _mean([row[metric] / source[pair] for row in own if row["pair"] == pair])
            for pair in source
        }
        overall = _mean(list(shares.values()))
        table.append({"group": own[0]["group"], "candidate": name, "mean": overall, **shares})
    return sorted(table, key=lambda row: (row["group"], row["mean"]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
