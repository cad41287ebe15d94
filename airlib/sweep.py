"""Many adaptations, scored under one protocol: methods x pairs x seeds, restartable, in parallel
processes.

    runs = sweep("tiny", ["nada", "air"], ["human-baby"], seeds=[0, 1, 2], directory="runs/sweep")
    runs[0].metrics                       # list of Metric
    runs[0].adaptation()                  # reloads the adapted generator

Each run leaves PAIR-METHOD-SEED.safetensors (the adaptation) and, last, PAIR-METHOD-SEED.json (its
metrics); a run whose JSON matches the profile's numbers is not repeated. Methods "source" and
"truth" are reference rows: the untouched source generator, and the true target images themselves.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.evaluation.protocol import evaluate, evaluate_images
from airlib.files import write_json
from airlib.profiles import load_profile
from airlib.progress import track
from airlib.results import Metric
from airlib.tinyworld.training import weights_fingerprint
from airlib.worlds import METHODS, World, open_world

REFERENCE_ROWS = ("source", "truth")


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

    def adaptation(self) -> Adaptation:
        """What the run changed."""
        return Adaptation.load(self.stem.with_suffix(".safetensors"))

    def value(self, name: str) -> float:
        """The metric called `name`."""
        return next(metric.value for metric in self.metrics if metric.name == name)


def sweep(
    profile: str, methods: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path, overrides: dict | None = None, workers: int = 2,
) -> list[Run]:  # fmt: skip
    """Run and score everything that is not on disk yet; reference rows are added to the methods.

    Raises AirlibError for unknown names before anything runs, and for the first run that fails.
    """
    numbers = load_profile(profile, overrides)
    for method in methods:
        if method not in METHODS:
            raise AirlibError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    for pair in pairs:
        if pair not in numbers.pairs:
            raise AirlibError(f"unknown pair {pair!r}; choose from {', '.join(numbers.pairs)}")
    directory = Path(directory)
    todo = [Run(pair, row, 0, directory) for pair in pairs for row in REFERENCE_ROWS]
    todo += [Run(p, m, s, directory) for p in pairs for s in seeds for m in methods]
    jobs = [(run, profile, tuple(sorted((overrides or {}).items()))) for run in todo]
    done = {_key(run): run for run in _execute(jobs, workers)}
    return [done[_key(run)] for run in todo]


def _key(run: Run) -> tuple[str, str, int]:
    return run.pair, run.method, run.seed


def _execute(jobs: list[tuple], workers: int) -> Iterable[Run]:
    if workers <= 1:
        for job in track(jobs, "adapting"):
            yield _job(*job)
        return
    # Spawned, not forked: a notebook's kernel already runs threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        futures = [pool.submit(_job, *job) for job in jobs]
        try:
            for future in track(as_completed(futures), "adapting", total=len(futures)):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _world(profile: str, source: str, overrides: tuple) -> World:
    return open_world(load_profile(profile, dict(overrides)), source)


def _job(run: Run, profile: str, overrides: tuple) -> Run:
    """Run, score and save; or read what an earlier call saved."""
    numbers = load_profile(profile, dict(overrides))
    record = run.stem.with_suffix(".json")
    pair = numbers.pairs[run.pair].as_dict()
    method = numbers.methods[run.method].as_dict() if run.method in METHODS else {}
    inputs = {
        "pair": pair, "method": method, "evaluation": numbers.evaluation.as_dict(),
        "world": numbers.world.as_dict(), "weights": weights_fingerprint(),
    }  # fmt: skip
    inputs = json.loads(json.dumps(inputs))
    if record.exists():
        saved = json.loads(record.read_text(encoding="utf-8"))
        if saved["inputs"] == inputs:
            return _with_metrics(run, [Metric(**entry) for entry in saved["metrics"]])
    metrics = _score(run, _world(profile, pair["source"], overrides))
    write_json(record, {"inputs": inputs, "metrics": [asdict(metric) for metric in metrics]})
    return _with_metrics(run, metrics)


def _score(run: Run, world: World) -> list[Metric]:
    reference = world.reference(run.pair)
    owner = (run.pair, run.method, run.seed)
    if run.method == "truth":
        # The latents' own true targets: paired distances are 0 by definition, the Frechet distance
        # is its floor.
        images = world.truth(run.pair, world.z(len(reference.latents)))
        return evaluate_images(images, reference, *owner)
    if run.method == "source":
        return evaluate(world.generator, reference, *owner)
    adaptation = world.adapt(run.method, run.pair, run.seed)
    adaptation.save(run.stem.with_suffix(".safetensors"))
    return evaluate(adaptation.apply(world.generator), reference, *owner)


def _with_metrics(run: Run, metrics: Iterable[Metric]) -> Run:
    return Run(run.pair, run.method, run.seed, run.directory, tuple(metrics))
