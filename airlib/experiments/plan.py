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

The 2 x 2 x 3 x 2 runs above and the reference rows of both pairs end in runs/mine/runs.json. Where
one table of options does not say it all, a plan has several [[grids]], each with a name, and with
methods and options of its own. With train = "package.module:Class" it trains instead of adapting
(`experiments.trainings`). Plans that are shipped are read by their name alone: `plan_names`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, product
from pathlib import Path
from typing import Any

from airlib.documents import read_toml
from airlib.errors import AirlibError
from airlib.experiments.runs import Run, save_runs
from airlib.experiments.sweep import FailedRuns, finish, import_all, planned
from airlib.experiments.trainings import trainings
from airlib.profiles import Profile, load_profile, pairs_of_role

PLANS = Path(__file__).parent / "plans"
WORDS, COUNTS = "a list of names", "a list of whole numbers from 0 on, such as [0, 1, 2]"
GRIDS = 'tables such as {name = "slow", options = {steps = [80, 160]}}'
LISTS = {"methods": (str, WORDS), "pairs": (str, WORDS), "imports": (str, WORDS),
         "seeds": (int, COUNTS), "grids": (dict, GRIDS)}  # fmt: skip
MOST_COMBINATIONS = 10_000  # of options; each is at least one run
ADAPTING = ("profile", "methods", "role", "pairs", "protocol", "overrides")  # not for a training


@dataclass(frozen=True)
class Grid:
    """Part of a plan: its `name` for tables, and `methods` and `options` in place of the plan's."""

    name: str = ""
    methods: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a sweep runs; the fields but `command` are the keys of its file.

    pairs: instead of those of a role. options: of `multiplied`. overrides: of `load_profile`.
    imports: modules that register methods or parameterizations of your own. grids: instead of
    options. train: a task that is trained, instead of methods that adapt.
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
    grids: tuple[Grid, ...] = ()
    train: str = ""
    command: str = ""  # that repeats it, for the record

    @classmethod
    def of(cls, values: Mapping[str, Any], command: str = "") -> "Plan":
        """Check the types of a file's values; the names in them are checked by `grids_of_runs`."""
        _check_values(values, [field.name for field in fields(cls) if field.name != "command"])
        for one, other in (("role", "pairs"), ("options", "grids")):
            if one in values and other in values:
                raise AirlibError(f"{one} and {other} are two ways to name the same; choose one")
        if "train" in values and (both := [key for key in ADAPTING if key in values]):
            raise AirlibError(f"a plan that trains has no {both[0]}; leave out one of the two")
        frozen: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if "grids" in values:
            frozen["grids"] = tuple(_grid(one) for one in values["grids"])
        return cls(**frozen, command=command)

    def numbers(self) -> Profile:
        """The profile with the overrides."""
        return load_profile(self.profile, self.overrides)

    def chosen_pairs(self) -> tuple[str, ...]:
        """The named pairs, or those of the role; AirlibError if it has none."""
        numbers = self.numbers()
        pairs = self.pairs or tuple(pairs_of_role(numbers, self.role))
        if not pairs:
            roles = ", ".join(sorted({pair.role for pair in numbers.pairs.values()}))
            raise AirlibError(
                f"profile {self.profile} has no pairs of role {self.role!r}; choose from {roles}"
            )
        return pairs

    def grids_of_runs(self, directory: str | Path = "") -> dict[str, list[Run]]:
        """Every run by the name of its grid, in order; reference rows are under "".

        Raises AirlibError for names and values that do not exist.
        """
        import_all(self.imports)
        found: dict[str, list[Run]] = {}
        if not self.train:
            numbers, pairs = self.numbers(), self.chosen_pairs()
            found[""] = planned(numbers, [], pairs, [], directory, None, self.protocol)
        for grid in self.grids or (Grid(options=self.options),):
            options, methods = multiplied(grid.options), grid.methods or self.methods
            if self.train:
                runs = trainings(self.train, options, self.seeds, directory)
            else:
                runs = planned(
                    numbers, methods, pairs, self.seeds, directory, (), self.protocol, options
                )
            found.setdefault(grid.name, []).extend(runs)
        return found

    def grids_in(self, known: Mapping[str, Any]) -> dict[str, list[Run]]:
        """Select from `grids_of_runs` what is in `known` (`load_runs`), with the metrics of there,
        whatever they were made from.
        """
        return {
            name: [
                run.with_metrics(known[run.stem.name]["metrics"])
                for run in runs if run.stem.name in known
            ]
            for name, runs in self.grids_of_runs().items()
        }  # fmt: skip


def _check_values(values: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key, value in values.items():
        if key not in keys:
            raise AirlibError(f"unknown key {key!r}; choose from {', '.join(keys)}")
        if what := _not(key, value):
            raise AirlibError(f"{key} must be {what}, not {value!r}")


def _not(key: str, value: Any) -> str | None:
    """What the value of a key should have been, if it is something else."""
    if key in ("options", "overrides"):
        return None if isinstance(value, dict) else "a table"
    if key in LISTS:
        kind, what = LISTS[key]
        good = isinstance(value, list) and value and all(type(entry) is kind for entry in value)
        return None if good and (kind is not int or min(value) >= 0) else what
    return None if isinstance(value, str) else "a name"


def _grid(values: Mapping[str, Any]) -> Grid:
    _check_values(values, [field.name for field in fields(Grid)])
    return Grid(**{**values, "methods": tuple(values.get("methods", ()))})


def plan_names() -> list[str]:
    """Names of the plans that are shipped, sorted."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def listing() -> list[str]:
    """A line for each shipped plan: its name, and what the file says of itself first."""
    texts = {name: (PLANS / f"{name}.toml").read_text(encoding="utf-8") for name in plan_names()}
    return [f"{name}: {text.splitlines()[0].removeprefix('# ')}" for name, text in texts.items()]


def read_plan(source: str | Path, flags: Mapping[str, Any] | None = None) -> Plan:
    """Read a sweep file, or a shipped plan by its name. flags: keys in place of the file's, where
    `seeds` may be how many. AirlibError if it cannot be read or understood.
    """
    path = PLANS / f"{source}.toml" if str(source) in plan_names() else Path(source)
    values = read_toml(path, f"name a sweep file, or a shipped plan: {', '.join(plan_names())}")
    try:
        return Plan.of(*_with_flags(values, flags or {}, f"airlib sweep {Path(source).name}"))
    except AirlibError as error:
        raise AirlibError(f"{path}: {error}") from error


def plan_of_flags(flags: Mapping[str, Any]) -> Plan:
    """The plan of flags of the command line alone."""
    defaults = Plan()
    shown = {key: getattr(defaults, key) for key in ("profile", "methods", "role", "seeds")}
    shown |= {"seeds": len(defaults.seeds), "protocol": defaults.protocol}
    if "pairs" in flags:
        del shown["role"]
    return Plan.of(*_with_flags({}, {**shown, **flags}, "airlib sweep"))


def _with_flags(
    values: Mapping[str, Any], flags: Mapping[str, Any], command: str
) -> tuple[dict[str, Any], str]:
    """A file's values with those of flags in place of them, and the command that repeats it."""
    words = [
        f"--{key} {' '.join(value) if isinstance(value, list | tuple) else value}"
        for key, value in flags.items()
    ]
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in flags.items()
    }
    if isinstance(count := given.get("seeds"), int):
        given["seeds"] = list(range(count))
    replaced = {"role": "pairs", "pairs": "role"}
    kept = {key: value for key, value in values.items() if replaced.get(key) not in given}
    return {**kept, **given}, " ".join([command, *words])


def multiplied(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values of an options table, a list or a single value each.

        multiplied({"a": [1, 2], "b": 3})     # [{"a": 1, "b": 3}, {"a": 2, "b": 3}]

    An option that is itself a list, such as betas, is given as a list of lists.
    """
    for name, values in options.items():
        if values == []:
            raise AirlibError(f"option {name!r} has no values; give it some or leave it out")
    lists = [values if isinstance(values, list) else [values] for values in options.values()]
    if (count := math.prod(map(len, lists))) > MOST_COMBINATIONS:
        raise AirlibError(
            f"the options have {count:,} combinations, more than {MOST_COMBINATIONS:,}; leave out "
            "some values, or split the plan"
        )
    return [dict(zip(options, values, strict=True)) for values in product(*lists)]


def run_plan(
    plan: Plan, directory: str | Path, workers: int = 2, scheduler: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Run what is not on disk yet; returns the file of all finished runs (`save_runs`) and, by
    name, what was wrong with those that failed.

    Raises AirlibError for names and values that do not exist, before anything runs.
    """
    errors: dict[str, str] = {}
    runs = list(chain.from_iterable(plan.grids_of_runs(directory).values()))
    try:
        runs = finish(
            runs, plan.numbers(), plan.protocol, workers,
            scheduler=scheduler, imports=plan.imports,
        )  # fmt: skip
    except FailedRuns as failed:
        runs, errors = failed.done, failed.errors
    return save_runs(runs, Path(directory) / "runs.json", plan.command), errors
