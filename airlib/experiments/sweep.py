"""Many adaptations, scored under one protocol: methods x pairs x seeds x options, restartable, in
parallel processes.

    runs = sweep("tiny", ["nada", "air"], ["human-baby"], seeds=[0, 1, 2], directory="runs/sweep")
    runs[0].metrics                       # list of Metric
    runs[0].adaptation()                  # reloads the adapted generator
    sweep(..., options=[{"steps": 20}, {"steps": 40}])       # numbers of the method to change

A run whose record was made from the same numbers and weights is not repeated. A method may also be
a reference row of the world (`World.row`): "source" is the untouched generator. Trainings are runs,
too, and go through the same `finish`; see `experiments.trainings`.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.evaluation.protocols import PROTOCOLS
from airlib.experiments.inputs import inputs_of, same_inputs
from airlib.experiments.processes import in_processes
from airlib.experiments.runs import SHIPPED_ADAPTATIONS, Run, check_names, label_of, recorded
from airlib.experiments.trainings import train, training_inputs
from airlib.generators.base import Generator
from airlib.profiles import Profile, load_profile
from airlib.results import Metric
from airlib.worlds import WORLDS, World, open_world
from airlib.worlds.numbers import changed, is_method, numbers_of
from airlib.worlds.scored_images import rows_of, scored_images

UNSCORED = "none"  # in place of a protocol: adaptations are made and saved, nothing is measured


class FailedRuns(AirlibError):
    """Some runs of a sweep failed. errors: name -> what was wrong; done: all other runs."""

    def __init__(self, failed: Mapping[str, Exception], done: list[Run]) -> None:
        self.done = done
        self.errors = {name: _reason(error) for name, error in failed.items()}
        listed = "; ".join(f"{name}: {error}" for name, error in self.errors.items())
        super().__init__(f"{len(failed)} runs failed, {len(done)} others are done: {listed}")


def sweep(
    profile: str | Profile, methods: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path, workers: int = 2, rows: Sequence[str] | None = None,
    known: dict | None = None, protocol: str = "quick",
    options: Sequence[Mapping[str, Any]] = ({},), scheduler: str | None = None,
    imports: Sequence[str] = (),
) -> list[Run]:  # fmt: skip
    """Run and score everything that is not on disk yet, and the reference `rows` of every pair
    (default: those of the profile's world).

    profile: a name, or a profile with overrides (`load_profile`). methods: names of methods and
    arms. protocol: of `evaluation.protocols`, or "none" to adapt only. known: finished runs from
    elsewhere (`load_runs`), taken over where weights and numbers are the same; only their metrics
    exist, not their adaptations. options: every method is run with each of these changes of its
    numbers. workers, scheduler: see `in_processes`. imports: modules that register methods or
    parameterizations of your own, imported in every worker too; the current directory counts.
    Raises AirlibError for unknown names before anything runs, and FailedRuns when all others are
    done.
    """
    import_all(imports)
    runs = planned(profile, methods, pairs, seeds, directory, rows, protocol, options)
    return finish(runs, profile, protocol, workers, known, scheduler, imports)


def adapt_watched(
    world: World, method: str, pair: str, seed: int, directory: str | Path,
    on_step: Callable[[int, Generator], None],
) -> Adaptation:  # fmt: skip
    """Adapt as a run of `sweep` does and keep it in `directory`: a sweep there only has to score
    it. on_step(k, adapted): see `adapt`.
    """
    profile = world.profile
    (run,) = planned(profile, [method], [pair], [seed], directory, protocol=UNSCORED)
    run.file(".json").unlink(missing_ok=True)  # it may describe what is replaced now
    made = world.adapt(method, pair, seed, on_step=on_step)
    made.save(run.file(".safetensors"))
    recorded(run.file(".json"), _inputs(run, profile, UNSCORED), list)
    return made


def planned(
    profile: str | Profile, methods: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path = "", rows: Sequence[str] | None = None, protocol: str = "quick",
    options: Sequence[Mapping[str, Any]] = ({},),
) -> list[Run]:  # fmt: skip
    """What `sweep` would run, in order. Raises AirlibError for names that do not exist."""
    profile, directory = _profile(profile), Path(directory).absolute()
    check_pairs(profile, pairs)
    if protocol not in (*PROTOCOLS, UNSCORED):
        names = ", ".join([*PROTOCOLS, UNSCORED])
        raise AirlibError(f"unknown protocol {protocol!r}; choose from {names}")
    settings = [(m, checked_options(profile, m, one)) for m in methods for one in options]
    if rows is None:
        rows = () if protocol == UNSCORED else rows_of(WORLDS[profile.name], protocol)
    runs = [Run(pair, row, 0, directory) for pair in pairs for row in rows]
    return runs + [
        Run(pair, method, seed, directory, options=changes)
        for pair in pairs for seed in seeds for method, changes in settings
    ]  # fmt: skip


def finish(
    runs: Sequence[Run], profile: str | Profile, protocol: str = "quick", workers: int = 2,
    known: dict | None = None, scheduler: str | None = None, imports: Sequence[str] = (),
) -> list[Run]:  # fmt: skip
    """Run and score what is not on disk yet of `planned` runs and trainings; see `sweep`."""
    check_names(runs)
    profile = _profile(profile)
    done = {run.stem.name: run for run in known_of(runs, profile, known or {}, protocol)}
    jobs = [(run, profile, protocol, tuple(imports)) for run in runs if run.stem.name not in done]
    failed: dict[str, Exception] = {}

    def note(job: tuple, error: Exception) -> None:
        failed[job[0].stem.name] = error

    done |= {run.stem.name: run for run in in_processes(_job, jobs, workers, scheduler, note)}
    finished = [done[run.stem.name] for run in runs if run.stem.name in done]
    if failed:
        raise FailedRuns(failed, finished) from next(iter(failed.values()))
    return finished


def known_of(
    runs: Sequence[Run], profile: str | Profile, known: dict, protocol: str = "quick"
) -> list[Run]:
    """Select the `planned` runs that are in `known` (`load_runs`), made from the same inputs, and
    give them the metrics of there. Nothing is run. One that was not made in its directory, too, is
    moved to `SHIPPED_ADAPTATIONS`, where some have portraits, a log, an adaptation.
    """
    profile, found = _profile(profile), []
    for run in runs:
        if not (saved := known.get(run.stem.name)):
            continue
        inputs = _inputs(run, profile, protocol)
        if same_inputs(saved["inputs"], inputs):
            here = run.was_made_from(inputs)
            place = run if here else replace(run, directory=SHIPPED_ADAPTATIONS)
            found.append(place.with_metrics(saved["metrics"]))
    return found


def checked_options(
    profile: Profile, method: str, options: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    """Options of a method sorted by name, with values of the types that the profile has.

    Raises AirlibError for an unknown method, an option that it does not have, or a value of another
    type.
    """
    numbers = changed(numbers_of(profile, method), options, method)
    values = {name: numbers[name] for name in sorted(options)}
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items())


def check_pairs(profile: Profile, pairs: Iterable[str]) -> None:
    """Raise AirlibError for a pair that the profile does not have."""
    for pair in pairs:
        if pair not in profile.pairs:
            raise AirlibError(f"unknown pair {pair!r}; choose from {', '.join(profile.pairs)}")


def import_all(modules: Sequence[str]) -> None:
    """Import modules by name, also from the current directory; AirlibError if one cannot be."""
    for name in modules:
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            import_module(name)
        except (ImportError, TypeError, ValueError) as error:  # the last two for "..a" and ""
            raise AirlibError(
                f"cannot import {name!r} ({error}); run from the directory that holds it, or "
                "install it"
            ) from error


@lru_cache(maxsize=4)
def world_of(profile: Profile, source: str) -> World:
    """The world of a sweep's jobs; a process keeps the last four."""
    return open_world(profile, source)


# -- one run -----------------------------------------------------------------------------------
def _job(run: Run, profile: Profile, protocol: str, imports: Sequence[str] = ()) -> Run:
    """Run, score and save; or read what an earlier call saved."""
    import_all(imports)
    inputs = _inputs(run, profile, protocol)
    if run.train:
        return run.with_metrics(recorded(run.file(".json"), inputs, lambda: train(run)))
    made = run.adaptation() if run.was_made_from(inputs) else None
    if made and protocol == UNSCORED:
        return run  # its record may hold more
    make = partial(_adapted, run, profile, protocol, made)
    return run.with_metrics(recorded(run.file(".json"), inputs, make))


def _inputs(run: Run, profile: Profile, protocol: str) -> dict:
    return training_inputs(run) if run.train else inputs_of(run, profile, protocol)


def _adapted(run: Run, profile: Profile, protocol: str, made: Adaptation | None) -> list[Metric]:
    """Adapt and save, unless it is a reference row or `made` already; then score."""
    world, generator = world_of(profile, profile.pairs[run.pair].source), None
    if is_method(profile, run.method):
        if made is None:
            made = world.adapt(run.method, run.pair, run.seed, **dict(run.options))
            made.save(run.file(".safetensors"))
        if protocol == UNSCORED:
            return []
        generator = made.apply(world.generator)
    metrics: list[Metric] = []
    for name, batches in scored_images(world, run.method, run.pair, generator, protocol).items():
        scores = world.score(batches, run.pair, name, run.seed, protocol)
        label = label_of(name, dict(run.options))
        metrics += [replace(metric, method=label) for metric in scores]
    return metrics


def _profile(profile: str | Profile) -> Profile:
    return load_profile(profile) if isinstance(profile, str) else profile


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, AirlibError) else f"{type(error).__name__}: {error}"
