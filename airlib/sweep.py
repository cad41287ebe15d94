"""Many adaptations, scored under one protocol: methods x pairs x seeds, restartable, in parallel
processes.

    runs = sweep("tiny", ["nada", "air"], ["human-baby"], seeds=[0, 1, 2], directory="runs/sweep")
    runs[0].metrics                       # list of Metric
    runs[0].adaptation()                  # reloads the adapted generator

Each run leaves PAIR-METHOD-SEED.safetensors (the adaptation) and, last, PAIR-METHOD-SEED.json (its
metrics); a run whose JSON matches the profile's numbers is not repeated. A method may also be a
reference row of the world (`World.row`): "source" is the untouched generator.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.files import write_json
from airlib.profiles import (
    Profile,
    load_profile,
    method_names,
    method_numbers,
    pairs_of_role,
)
from airlib.progress import track
from airlib.results import Metric
from airlib.tinyworld.training import weights_fingerprint
from airlib.worlds import WORLDS, World, open_world

PROFILES = Path(__file__).parent / "profiles"
SHIPPED = PROFILES / "tiny_runs.json"  # NADA and AIR on the table's pairs
SHIPPED_ARMS = PROFILES / "tiny_arms.json"  # NADA and HyperDomainNet's arms on the same
SHIPPED_UNSEEN = PROFILES / "tiny_unseen.json"  # a domain vector for each unseen domain


@dataclass(frozen=True)
class Run:
    """One method on one pair with one seed."""

    pair: str
    method: str
    seed: int
    directory: Path
    metrics: tuple[Metric, ...] = ()

    @property
    def stem(self) -> Path:
        return self.directory / f"{self.pair}-{self.method}-{self.seed}"

    @property
    def is_here(self) -> bool:
        """Whether it was run in this directory, or its metrics are known from elsewhere."""
        return self.stem.with_suffix(".json").exists()

    def adaptation(self) -> Adaptation:
        """What the run changed."""
        return Adaptation.load(self.stem.with_suffix(".safetensors"))

    def value(self, name: str) -> float:
        """The metric called `name`."""
        return next(metric.value for metric in self.metrics if metric.name == name)


def sweep(
    profile: str, methods: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path, overrides: dict | None = None, workers: int = 2,
    rows: Sequence[str] | None = None, known: dict | None = None, protocol: str = "quick",
) -> list[Run]:  # fmt: skip
    """Run and score everything that is not on disk yet, and the reference `rows` of every pair
    (default: those of the profile's world).

    methods: names of the profile's methods and arms. protocol: of `evaluation.scoring`. known:
    finished runs from elsewhere (`load_runs`), taken over where weights and numbers are the same;
    only their metrics exist, not their adaptations.
    Raises AirlibError for unknown names before anything runs, and for the first run that fails.
    """
    numbers = load_profile(profile, overrides)
    for method in methods:
        method_numbers(numbers, method)
    check_pairs(numbers, pairs)
    directory, known = Path(directory), known or {}
    rows = WORLDS[profile].reference_rows if rows is None else rows
    todo = [Run(pair, row, 0, directory) for pair in pairs for row in rows]
    todo += [Run(p, m, s, directory) for p in pairs for s in seeds for m in methods]
    done = {}
    for run in todo:
        saved = known.get(run.stem.name)
        if saved and saved["inputs"] == run_inputs(run.pair, run.method, numbers, protocol):
            done[_key(run)] = _with_metrics(run, saved["metrics"])
    frozen = tuple(sorted((overrides or {}).items()))
    jobs = [(run, profile, frozen, protocol) for run in todo if _key(run) not in done]
    done |= {_key(run): run for run in in_processes(_job, jobs, workers)}
    return [done[_key(run)] for run in todo]


def sweep_role(
    profile: str, methods: Sequence[str], role: str, seeds: int, protocol: str, directory: Path,
    workers: int,
) -> Path:  # fmt: skip
    """Methods on every pair of one role; returns the file of `save_runs`."""
    pairs = pairs_of_role(load_profile(profile), role)
    if not pairs:
        raise AirlibError(f"profile {profile} has no pairs of role {role!r}")
    runs = sweep(
        profile, methods, pairs, range(seeds), directory, workers=workers, protocol=protocol
    )
    command = (
        f"airlib sweep --profile {profile} --methods {' '.join(methods)} --role {role} "
        f"--seeds {seeds} --protocol {protocol}"
    )
    return save_runs(runs, directory / "runs.json", command)


def save_runs(runs: Sequence[Run], path: str | Path, command: str) -> Path:
    """All finished runs in one file, each with the inputs that it was made from."""
    records = {run.stem.name: read_record(run.stem.with_suffix(".json")) for run in runs}
    return write_json(path, {"command": command, "runs": records})


def load_runs(path: str | Path = SHIPPED) -> dict:
    """What `save_runs` wrote: {"human-baby-air-0": {"inputs": ..., "metrics": ...}}."""
    return read_record(Path(path))["runs"]


def largest_difference(runs: Sequence[Run], known: dict) -> float | None:
    """Between runs made here and the same runs in `known` (`load_runs`): the largest difference of
    a metric, as a share of its known value. None where no run with the same inputs is in both.
    """
    shares = []
    for run in runs:
        there = known.get(run.stem.name)
        if there and there["inputs"] == read_record(run.stem.with_suffix(".json"))["inputs"]:
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
    if saved.get("inputs") != inputs:
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


def _key(run: Run) -> tuple[str, str, int]:
    return run.pair, run.method, run.seed


def in_processes(job: Callable, jobs: Sequence[tuple], workers: int) -> Iterable:
    """job(*arguments) for each of `jobs`, as they finish, in `workers` processes of one thread."""
    if workers <= 1 or not jobs:
        for arguments in track(jobs, "adapting"):
            yield job(*arguments)
        return
    # Spawned, not forked: a notebook's kernel already runs threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        futures = [pool.submit(job, *arguments) for arguments in jobs]
        try:
            for future in track(as_completed(futures), "adapting", total=len(futures)):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def world_of(profile: str, source: str, overrides: tuple) -> World:
    """The world of a sweep's jobs, opened once per process."""
    return open_world(load_profile(profile, dict(overrides)), source)


def _job(run: Run, profile: str, overrides: tuple, protocol: str) -> Run:
    """Run, score and save; or read what an earlier call saved."""
    numbers = load_profile(profile, dict(overrides))

    def make() -> list[dict]:
        world = world_of(profile, numbers.pairs[run.pair].source, overrides)
        return [asdict(metric) for metric in _score(run, world, protocol)]

    inputs = run_inputs(run.pair, run.method, numbers, protocol)
    return _with_metrics(run, recorded(run.stem.with_suffix(".json"), inputs, "metrics", make))


def run_inputs(pair: str, method: str, numbers: Profile, protocol: str = "quick") -> dict:
    """What a run depends on, as JSON values."""
    settings = method_numbers(numbers, method) if method in method_names(numbers) else {}
    inputs = {
        "pair": numbers.pairs[pair].as_dict(), "method": settings,
        "evaluation": numbers.evaluation.as_dict(), "world": numbers.world.as_dict(),
        "networks": numbers.networks.as_dict(), "weights": weights_fingerprint(),
    }  # fmt: skip
    if protocol != "quick":
        inputs["protocol"] = protocol
    return json.loads(json.dumps(inputs))


def _score(run: Run, world: World, protocol: str) -> list[Metric]:
    if run.method in method_names(world.profile):
        adaptation = world.adapt(run.method, run.pair, run.seed)
        adaptation.save(run.stem.with_suffix(".safetensors"))
        adapted = adaptation.apply(world.generator)
        batches = world.batches(adapted, world.profile.evaluation.samples)
    else:
        batches = world.row(run.method, run.pair)
    return world.score(batches, run.pair, run.method, run.seed, protocol)


def _with_metrics(run: Run, entries: Iterable[dict]) -> Run:
    metrics = tuple(Metric(**entry) for entry in entries)
    return Run(run.pair, run.method, run.seed, run.directory, metrics)
