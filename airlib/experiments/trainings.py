"""Trainings as runs of a sweep: a task of `training.loop`, and what it measures once it is trained.

    runs = trainings("airlib.studies.hypernetwork:HypernetworkTask", [{"norm": 0.0}], [0], "runs/x")
    finish(runs, "tiny")[0].values        # {"hypernetwork_unseen_left": ..., ...}

A task is named like an entry point, "package.module:Class", and called with `seed` and the options
of the run. Where it has `numbers`, they are what the training depends on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from airlib.errors import AirlibError
from airlib.experiments.runs import Run
from airlib.results import Metric
from airlib.tinyworld.shipped import weights_fingerprint
from airlib.training.loop import Task, TrainingRun


def trainings(
    train: str, options: Sequence[Mapping[str, Any]], seeds: Sequence[int], directory: str | Path
) -> list[Run]:
    """A run for each of the options and seeds; AirlibError if there is no such task."""
    name, directory = _class(train).name, Path(directory).absolute()
    return [
        Run("", name, seed, directory, (), tuple(sorted(changes.items())), train)
        for seed in seeds
        for changes in options
    ]


def training_inputs(run: Run) -> dict:
    """What a training depends on, as JSON values: its task, options, numbers, and the weights."""
    inputs = {
        "train": run.train, "options": dict(run.options),
        "numbers": getattr(_task(run), "numbers", {}), "weights": weights_fingerprint(),
    }  # fmt: skip
    return json.loads(json.dumps(inputs))


def train(run: Run) -> list[Metric]:
    """Train, from its own checkpoint if there is one, and measure."""
    task = _task(run)
    training = TrainingRun(task, run.stem, run.seed)
    if training.fits():
        training.resume()
    training.run()
    return [
        Metric(name, value, 1, None, f"{task.name}, {task.steps} steps", None, run.label, run.seed)
        for name, value in task.evaluate().items()
    ]


def _class(train: str) -> Any:
    try:
        found = resolve_name(train)
    except (ImportError, AttributeError, ValueError) as error:
        raise AirlibError(
            f'cannot find the task {train!r} ({error}); name it as "package.module:Class"'
        ) from error
    if not isinstance(getattr(found, "name", None), str):
        raise AirlibError(f"{train} is no task of a training: it has no name")
    return found


def _task(run: Run) -> Task:
    try:
        return _class(run.train)(seed=run.seed, **dict(run.options))
    except TypeError as error:
        raise AirlibError(f"{run.train} cannot be made with these options: {error}") from error
