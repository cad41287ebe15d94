"""Many adaptations, scored under one protocol: methods x pairs x seeds x options, restartable, in
parallel processes.

    runs = sweep("tiny", ["nada", "air"], ["human-baby"], seeds=[0, 1, 2], directory="runs/sweep")
    runs[0].metrics                       # list of Metric
    runs[0].adaptation()                  # reloads the adapted generator
    sweep(..., options=[{"steps": 20}, {"steps": 40}])       # numbers of the method to change

Each run leaves PAIR-METHOD-SEED.safetensors (the adaptation) and, last, PAIR-METHOD-SEED.json (its
metrics); options follow the seed, as in human-baby-nada-0-steps=20.json. A run whose JSON was made
from the same numbers and weights is not repeated. A method may also be a reference row of the world
(`World.row`): "source" is the untouched generator.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.evaluation.protocols import PROTOCOLS
from airlib.experiments.processes import in_processes
from airlib.files import write_json
from airlib.profiles import Profile, load_profile
from airlib.results import Metric
from airlib.tinyworld.shipped import DIFFUSION_FOUNDATION, weights_fingerprint
from airlib.worlds import WORLDS, World, open_world
from airlib.worlds.numbers import changed, is_method, numbers_of

SHIPPED_RUNS = Path(__file__).parent / "shipped"
SHIPPED = (
    SHIPPED_RUNS / "tiny_runs.json"
)  # the methods and the ablations of AIR on the table's pairs
SHIPPED_ARMS = SHIPPED_RUNS / "tiny_arms.json"  # NADA and HyperDomainNet's arms on the same
SHIPPED_UNSEEN = SHIPPED_RUNS / "tiny_unseen.json"  # a domain vector for each unseen domain
SHIPPED_DIFFUSION = SHIPPED_RUNS / "tiny_diffusion.json"  # NADA and AIR on a diffusion model
SHIPPED_LORA = SHIPPED_RUNS / "tiny_lora.json"  # NADA there, with other ranks and layers
SHIPPED_RATES = SHIPPED_RUNS / "tiny_diffusion_settings.json"  # both, with other rates and lengths
SHIPPED_KNOBS = SHIPPED_RUNS / "tiny_knobs.json"  # AIR with other thresholds and intervals
INPUTS_BEFORE = {
    "truncation": 1.0, "mixing": 0.0, "weights": {}, "in_domain_angle": 0.0, "domain_norm": 0.0,
    "order": "mean_then_norm", "prompt_mixing": "label", "learn_from": "previous",
    "keep_direction": True,
}  # fmt: skip
"""What runs did whose records do not name these numbers of a method."""
LONGEST_NAME = 200  # characters; file systems take 255 bytes, suffix included


@dataclass(frozen=True)
class Run:
    """One method on one pair with one seed, with some of its numbers changed."""

    pair: str
    method: str
    seed: int
    directory: Path
    metrics: tuple[Metric, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()  # as `World.adapt` takes them, sorted by name

    @property
    def stem(self) -> Path:
        options = "".join(f"-{k}={quote(_text(v), safe='[], ')}" for k, v in self.options)
        return self.directory / f"{self.pair}-{self.method}-{self.seed}{options}"

    def file(self, suffix: str) -> Path:
        """`stem` with a suffix behind it; a stem may have dots of its own, as in t_int=0.1."""
        return self.stem.with_name(self.stem.name + suffix)

    @property
    def label(self) -> str:
        """The method in the metrics."""
        return label_of(self.method, dict(self.options))

    @property
    def is_here(self) -> bool:
        """Whether it was run in this directory, or its metrics are known from elsewhere."""
        return self.file(".json").exists()

    def adaptation(self) -> Adaptation:
        """What the run changed."""
        return Adaptation.load(self.file(".safetensors"))

    def value(self, name: str) -> float:
        """The metric called `name`."""
        return next(metric.value for metric in self.metrics if metric.name == name)


class FailedRuns(AirlibError):
    """Some runs of a sweep failed. errors: name -> what was wrong; done: all other runs."""

    def __init__(self, failed: Mapping[str, Exception], done: list[Run]) -> None:
        self.done = done
        self.errors = {name: _reason(error) for name, error in failed.items()}
        listed = "; ".join(f"{name}: {error}" for name, error in self.errors.items())
        super().__init__(f"{len(failed)} runs failed, {len(done)} others are done: {listed}")


def sweep(
    profile: str, methods: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path, overrides: dict | None = None, workers: int = 2,
    rows: Sequence[str] | None = None, known: dict | None = None, protocol: str = "quick",
    options: Sequence[Mapping[str, Any]] = ({},), scheduler: str | None = None,
    imports: Sequence[str] = (),
) -> list[Run]:  # fmt: skip
    """Run and score everything that is not on disk yet, and the reference `rows` of every pair
    (default: those of the profile's world).

    methods: names of the profile's methods and arms. protocol: of `evaluation.protocols`. known:
    finished runs from elsewhere (`load_runs`), taken over where weights and numbers are the same;
    only their metrics exist, not their adaptations. options: every method is run with each of
    these changes of its numbers. workers, scheduler: see `in_processes`. imports: modules that
    register methods or parameterizations of your own, imported in every worker too; the current
    directory counts.
    Raises AirlibError for unknown names before anything runs, and FailedRuns when all others are
    done.
    """
    import_all(imports)
    numbers, directory = load_profile(profile, overrides), Path(directory).absolute()
    check_pairs(numbers, pairs)
    if protocol not in PROTOCOLS:
        raise AirlibError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    settings = {
        method: [checked_options(profile, overrides or {}, method, changes) for changes in options]
        for method in methods
    }
    rows = WORLDS[profile].reference_rows if rows is None else rows
    todo = [Run(pair, row, 0, directory) for pair in pairs for row in rows]
    todo += [
        Run(pair, method, seed, directory, options=changes)
        for pair in pairs for seed in seeds for method in methods for changes in settings[method]
    ]  # fmt: skip
    _check_names(todo)
    frozen = tuple(sorted((overrides or {}).items()))
    done: dict[Path, Run] = {}
    jobs: list[tuple] = []
    failed: dict[str, Exception] = {}
    for run in todo:
        saved = (known or {}).get(run.stem.name)
        if saved and same_inputs(saved["inputs"], inputs_of(run, numbers, protocol)):
            done[run.stem] = _with_metrics(run, saved["metrics"])
        else:
            jobs.append((run, profile, frozen, protocol, tuple(imports)))

    def note(job: tuple, error: Exception) -> None:
        failed[job[0].stem.name] = error

    done |= {run.stem: run for run in in_processes(_job, jobs, workers, scheduler, note)}
    finished = [done[run.stem] for run in todo if run.stem in done]
    if failed:
        raise FailedRuns(failed, finished) from next(iter(failed.values()))
    return finished


def checked_options(
    profile: str, overrides: Mapping[str, Any], method: str, options: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    """Options of a method sorted by name, with values of the types that the profile has.

    Raises AirlibError for an unknown method, an option that it does not have, or a value of another
    type.
    """
    numbers = changed(numbers_of(load_profile(profile, overrides), method), options, method)
    values = {name: numbers[name] for name in sorted(options)}
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items())


def _check_names(runs: Sequence[Run]) -> None:
    """Each run has a file of its own, with a name that a file system takes."""
    seen = set()
    for run in runs:
        if len(run.stem.name) > LONGEST_NAME:
            raise AirlibError(f"the name {run.stem.name!r} is too long; change fewer options")
        if run.stem in seen:
            raise AirlibError(f"the run {run.stem.name} is asked for twice; name everything once")
        seen.add(run.stem)


def save_runs(runs: Sequence[Run], path: str | Path, command: str) -> Path:
    """All finished runs in one file, each with the inputs that it was made from."""
    records = {run.stem.name: read_record(run.file(".json")) for run in runs}
    return write_json(path, {"command": command, "runs": records})


def load_runs(path: str | Path = SHIPPED) -> dict:
    """What `save_runs` wrote: {"human-baby-air-0": {"inputs": ..., "metrics": ...}}."""
    return read_record(Path(path))["runs"]


def largest_difference(runs: Sequence[Run], known: dict) -> float | None:
    """The largest difference of a metric between runs made here and the same runs in `known`
    (`load_runs`), as a share of its known value; None where no run with equal inputs is in both.
    """
    shares = []
    for run in runs:
        there = known.get(run.stem.name)
        if there and same_inputs(there["inputs"], read_record(run.file(".json"))["inputs"]):
            values = {metric["name"]: metric["value"] for metric in there["metrics"]}
            shares += [abs(m.value / values[m.name] - 1) for m in run.metrics if values[m.name]]
    return max(shares) if shares else None


def check_pairs(numbers: Profile, pairs: Iterable[str]) -> None:
    """Raise AirlibError for a pair that the profile does not have."""
    for pair in pairs:
        if pair not in numbers.pairs:
            raise AirlibError(f"unknown pair {pair!r}; choose from {', '.join(numbers.pairs)}")


def recorded(path: Path, inputs: dict, key: str, make: Callable[[], Any]) -> Any:
    """What `make` returns (JSON values); read from `path` if it was made from the same inputs
    before, else made and written there beside them, as `key`.
    """
    saved = read_record(path) if path.exists() else {}
    if not same_inputs(saved.get("inputs", {}), inputs):
        path.unlink(missing_ok=True)  # `make` may overwrite what the old record describes
        saved = {"inputs": inputs, key: make()}
        write_json(path, saved)
    return saved[key]


def read_record(path: Path) -> dict:
    """The JSON that a sweep wrote; AirlibError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirlibError(
            f"cannot read the results {path}: {error}; run the sweep again"
        ) from error


@cache
def world_of(profile: str, source: str, overrides: tuple) -> World:
    """The world of a sweep's jobs, opened once per process."""
    return open_world(load_profile(profile, dict(overrides)), source)


def import_all(modules: Sequence[str]) -> None:
    """Import modules by name, also from the current directory; AirlibError if one cannot be."""
    for name in modules:
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            import_module(name)
        except ImportError as error:
            raise AirlibError(
                f"cannot import {name!r} ({error}); run from the directory that holds it, or "
                "install it"
            ) from error


def _job(
    run: Run, profile: str, overrides: tuple, protocol: str, imports: Sequence[str] = ()
) -> Run:
    """Run, score and save; or read what an earlier call saved."""
    import_all(imports)
    numbers = load_profile(profile, dict(overrides))

    def make() -> list[dict]:
        world = world_of(profile, numbers.pairs[run.pair].source, overrides)
        return [asdict(metric) for metric in _score(run, world, protocol)]

    inputs = inputs_of(run, numbers, protocol)
    return _with_metrics(run, recorded(run.file(".json"), inputs, "metrics", make))


def run_inputs(pair: str, method: str, numbers: Profile, protocol: str = "quick") -> dict:
    """What a run depends on, as JSON values: its pair, all numbers of its method, the weights."""
    kind = numbers.sources[numbers.pairs[pair].source].generator
    settings = numbers_of(numbers, method, kind) if is_method(numbers, method) else {}
    inputs = {
        "pair": numbers.pairs[pair].as_dict(), "method": settings,
        "evaluation": numbers.evaluation.as_dict(), "world": numbers.world.as_dict(),
        "networks": numbers.networks.as_dict(), "weights": weights_fingerprint(),
    }  # fmt: skip
    if kind == "diffusion":
        inputs["diffusion"] = numbers.diffusion.as_dict()
        inputs["weights"] = weights_fingerprint(names=DIFFUSION_FOUNDATION)
    if protocol != "quick":
        inputs["protocol"] = protocol
    return json.loads(json.dumps(inputs))


def same_inputs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a record was made from the inputs of today.

    A number of the method that the record does not name did not exist when it was made; what it has
    become by default is what the run did then.
    """
    known, numbers = saved.get("method", {}), now.get("method", {})
    missing = numbers.keys() - known.keys()
    then = {**INPUTS_BEFORE, "templates": saved.get("world", {}).get("templates")}
    filled = {key: then.get(key) for key in missing} | dict(known)
    return {**saved, "method": filled} == {**now, "method": dict(numbers)}


def inputs_of(run: Run, numbers: Profile, protocol: str) -> dict:
    """`run_inputs`, and the options if there are any."""
    options = {"options": json.loads(json.dumps(dict(run.options)))} if run.options else {}
    return run_inputs(run.pair, run.method, numbers, protocol) | options


def _score(run: Run, world: World, protocol: str) -> list[Metric]:
    if is_method(world.profile, run.method):
        adaptation = world.adapt(run.method, run.pair, run.seed, **dict(run.options))
        adaptation.save(run.file(".safetensors"))
        adapted = adaptation.apply(world.generator)
        batches: Iterable[Tensor] = world.batches(adapted, world.profile.evaluation.samples)
    else:
        batches = world.row(run.method, run.pair)
    metrics = world.score(batches, run.pair, run.method, run.seed, protocol)
    return [replace(metric, method=run.label) for metric in metrics]


def _with_metrics(run: Run, entries: Iterable[dict]) -> Run:
    return replace(run, metrics=tuple(Metric(**entry) for entry in entries))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, AirlibError) else f"{type(error).__name__}: {error}"


def label_of(method: str, options: Mapping[str, Any]) -> str:
    """A method with some of its numbers changed is another one, "air t_int=0.1" than "air"."""
    return " ".join([method, *(f"{key}={_text(options[key])}" for key in sorted(options))])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
