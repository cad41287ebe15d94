"""Sweeps as files: what is run is written down in TOML, and every list is multiplied out.

    methods = ["air"]                     # methods and arms of the profile
    pairs = ["human-baby", "human-cat"]   # or: role = "table"
    seeds = [0, 1]
    imports = ["my_methods"]              # modules that register methods of your own, if any
    [options]                             # numbers of the methods; every combination is run
    t_int = [0.05, 0.1, 0.2]
    t_thresh = [0.3, 0.6]
    [overrides]                           # other numbers of the profile, for all runs
    "evaluation.samples" = 100

    path, errors = run_plan(read_plan("mine.toml"), "runs/mine")      # airlib sweep mine.toml

The 2 x 2 x 3 x 2 runs above and the reference rows of both pairs end in runs/mine/runs.json.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from airlib.errors import AirlibError
from airlib.experiments.sweep import FailedRuns, save_runs, sweep
from airlib.profiles import load_profile, pairs_of_role

WORDS, COUNTS = "a list of names", "a list of whole numbers from 0 on, such as [0, 1, 2]"


@dataclass(frozen=True)
class Plan:
    """What a sweep runs; the fields but `command` are the keys of its file.

    pairs: instead of those of a role. options: of `multiplied`. overrides: of `load_profile`.
    imports: modules that register methods or parameterizations of your own.
    """

    profile: str = "tiny"
    methods: tuple[str, ...] = ("nada", "air")
    role: str = "table"
    pairs: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    protocol: str = "quick"
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    command: str = ""  # that repeats it, for the record

    @classmethod
    def of(cls, values: Mapping[str, Any], command: str = "") -> "Plan":
        """Check the types of a file's values; the names in them are checked by `sweep`."""
        keys = [field.name for field in fields(cls) if field.name != "command"]
        for key, value in values.items():
            if key not in keys:
                raise AirlibError(f"unknown key {key!r}; choose from {', '.join(keys)}")
            if what := _not(key, value):
                raise AirlibError(f"{key} must be {what}, not {value!r}")
        if "role" in values and "pairs" in values:
            raise AirlibError("role and pairs are two ways to name the same; choose one")
        frozen: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**frozen, command=command)

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any]) -> "Plan":
        """The plan of flags of the command line, where `seeds` is how many."""
        plan = cls.of({**flags, "seeds": list(range(flags.get("seeds", 5)))})
        command = (
            f"airlib sweep --profile {plan.profile} --methods {' '.join(plan.methods)} --role "
            f"{plan.role} --seeds {len(plan.seeds)} --protocol {plan.protocol}"
        )
        return replace(plan, command=command)

    def chosen_pairs(self) -> tuple[str, ...]:
        """The named pairs, or those of the role; AirlibError if it has none."""
        numbers = load_profile(self.profile, self.overrides)
        pairs = self.pairs or tuple(pairs_of_role(numbers, self.role))
        if not pairs:
            roles = ", ".join(sorted({pair.role for pair in numbers.pairs.values()}))
            raise AirlibError(
                f"profile {self.profile} has no pairs of role {self.role!r}; choose from {roles}"
            )
        return pairs


def _not(key: str, value: Any) -> str | None:
    """What the value of a key should have been, if it is something else."""
    if key in ("options", "overrides"):
        return None if isinstance(value, dict) else "a table"
    if key in ("methods", "pairs", "seeds", "imports"):
        kind, what = (int, COUNTS) if key == "seeds" else (str, WORDS)
        good = isinstance(value, list) and value and all(type(entry) is kind for entry in value)
        return None if good and (kind is str or min(value) >= 0) else what
    return None if isinstance(value, str) else "a name"


def read_plan(path: str | Path) -> Plan:
    """Read a sweep file; AirlibError if it cannot be read or understood."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AirlibError(f"cannot read the sweep file {path}: {error}") from error
    try:
        return Plan.of(values, f"airlib sweep {path.name}")
    except AirlibError as error:
        raise AirlibError(f"{path}: {error}") from error


def multiplied(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values of an options table, a list or a single value each.

        multiplied({"a": [1, 2], "b": 3})     # [{"a": 1, "b": 3}, {"a": 2, "b": 3}]

    An option that is itself a list, such as betas, is given as a list of lists.
    """
    for name, values in options.items():
        if values == []:
            raise AirlibError(f"option {name!r} has no values; give it some or leave it out")
    lists = [values if isinstance(values, list) else [values] for values in options.values()]
    return [dict(zip(options, values, strict=True)) for values in product(*lists)]


def run_plan(
    plan: Plan, directory: str | Path, workers: int = 2, scheduler: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Run what is not on disk yet; returns the file of all finished runs (`save_runs`) and, by
    name, what was wrong with those that failed.

    Raises AirlibError for names and values that do not exist, before anything runs.
    """
    errors: dict[str, str] = {}
    try:
        runs = sweep(
            plan.profile, plan.methods, plan.chosen_pairs(), plan.seeds, directory,
            _hashable(plan.overrides), workers, protocol=plan.protocol,
            options=multiplied(plan.options), scheduler=scheduler, imports=plan.imports,
        )  # fmt: skip
    except FailedRuns as failed:
        runs, errors = failed.done, failed.errors
    return save_runs(runs, Path(directory) / "runs.json", plan.command), errors


def _hashable(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples: a process keeps its worlds by what they were opened with."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
