"""One picture shows the target: MindTheGap and what it is compared with, from the same reference.

    world = open_world("tiny", "human")
    example = example_of(world, "photo-sketch")              # the picture, and its inversion
    adapted = world.adapt("mtg_d", "photo-sketch").apply(world.generator)
    images = images_of(world, example, adapted, 8, style_mixing=True)[0]

    runs = one_shot("tiny", ["mtg", "mtg_d"], ["photo-sketch"], [0, 1, 2], "runs/one_shot")
    runs[0].value("paired_l1")

The arms of the study are named in a profile's table [one_shot]. MindTheGap's images are
drawn with the fine styles of the reference; they are scored without them too, under the name of the
arm and PLAIN. A sweep is restartable and leaves what that of `airlib.experiments.sweep` does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from airlib.editing.style_mixing import mix_styles
from airlib.experiments.processes import in_processes
from airlib.experiments.sweep import (
    SHIPPED_RUNS,
    Run,
    check_pairs,
    load_runs,
    recorded,
    run_inputs,
    same_inputs,
    save_runs,
    world_of,
)
from airlib.generators.base import DrawnBatches, Generator
from airlib.profiles import Profile, load_profile, method_names
from airlib.results import Metric
from airlib.worlds import WORLDS, World
from airlib.worlds.examples import Example, example_of
from airlib.worlds.numbers import method_of

SHIPPED = SHIPPED_RUNS / "tiny_one_shot.json"
MIXED = "mixed"  # the row of the untouched generator with the styles of the reference
MIXING = ("mind_the_gap", "air_mind_the_gap")  # the losses whose images have them
PLAIN = "_plain"  # those without
PROTOCOL = "shown"  # of `evaluation.protocols`
OUTCOMES = ("frechet_vit", "paired_l1", "paired_edge", "clip_distance", "text_quality",
            "clip_diversity", "precision", "recall")  # fmt: skip
"""What tables show: nothing by the first judge, which is part of the loss."""


def images_of(
    world: World, example: Example, generator: Generator, n: int, style_mixing: bool = False
) -> Sequence[Tensor]:
    """Images of the first n of the world's latents, in batches [B, 3, H, W].

    style_mixing: with the fine entries of the reference's latent in place of their own.
    """
    w = generator.map(world.z(n), world.profile.one_shot.truncation)
    w = mix_styles(w, example.inversion.latents) if style_mixing else w
    return DrawnBatches(generator, w, world.as_scored)


# -- all of them -------------------------------------------------------------------------------
def one_shot(
    profile: str, arms: Sequence[str], pairs: Sequence[str], seeds: Sequence[int],
    directory: str | Path, overrides: dict | None = None, workers: int = 2,
) -> list[Run]:  # fmt: skip
    """Run and score everything that is not on disk yet, with the reference rows of every pair.

    Raises AirlibError for unknown names before anything runs, and for the first run that fails.
    """
    numbers, directory = load_profile(profile, overrides), Path(directory)
    for arm in arms:
        method_of(numbers, arm)
    check_pairs(numbers, pairs)
    todo = [Run(pair, row, 0, directory) for pair in pairs for row in _rows(profile)]
    todo += [Run(p, arm, s, directory) for p in pairs for s in seeds for arm in arms]
    frozen = tuple(sorted((overrides or {}).items()))
    jobs = [(run, profile, frozen) for run in todo]
    done = {run.stem: run for run in in_processes(_job, jobs, workers)}
    return [done[run.stem] for run in todo]


def sweep_one_shot(profile: str, seeds: int, directory: Path, workers: int) -> Path:
    """All arms on the pairs of the profile's study; returns the file of `save_runs`."""
    study = load_profile(profile).one_shot
    runs = one_shot(profile, list(study.arms), study.pairs, range(seeds), directory, None, workers)
    command = f"airlib sweep-one-shot --profile {profile} --seeds {seeds}"
    return save_runs(runs, directory / "one_shot.json", command)


def known_metrics(numbers: Profile, path: str | Path = SHIPPED) -> list[Metric]:
    """Metrics of a file of `sweep_one_shot`, of those runs that were made with these numbers and
    weights; none if the file does not exist.
    """
    if not Path(path).exists():
        return []
    found = []
    for record in load_runs(path).values():
        metrics = [Metric(**entry) for entry in record["metrics"]]
        pair, arm = str(metrics[0].pair), str(metrics[0].method)
        known = arm in (*_rows(numbers.name), *method_names(numbers))
        if pair in numbers.pairs and known:
            if same_inputs(record["inputs"], inputs_of(pair, arm, numbers)):
                found += metrics
    return found


def inputs_of(pair: str, arm: str, numbers: Profile) -> dict:
    """What a run depends on, as JSON values: of the study, the part that concerns the arm."""
    study = numbers.one_shot.as_dict()
    own = {key: study[key] for key in ("truncation", "inversion")}
    return {**run_inputs(pair, arm, numbers, PROTOCOL), "one_shot": own}


def _rows(profile: str) -> tuple[str, ...]:
    return (*WORLDS[profile].reference_rows, MIXED)


def _job(run: Run, profile: str, overrides: tuple) -> Run:
    """Run, score and save; or read what an earlier call saved."""
    numbers = load_profile(profile, dict(overrides))

    def make() -> list[dict]:
        world = world_of(profile, numbers.pairs[run.pair].source, overrides)
        return [
            asdict(metric)
            for name, batches in _image_sets(run, world).items()
            for metric in world.score(batches, run.pair, name, run.seed, PROTOCOL)
        ]

    inputs = inputs_of(run.pair, run.method, numbers)
    entries = recorded(run.stem.with_suffix(".json"), inputs, "metrics", make)
    return replace(run, metrics=tuple(Metric(**entry) for entry in entries))


def _image_sets(run: Run, world: World) -> dict[str, Iterable[Tensor]]:
    """What is scored: images of a reference row, or of an arm, whose adaptation is saved first."""
    pair, name, n = run.pair, run.method, world.profile.evaluation.samples
    if name in world.reference_rows and name != "source":
        return {name: world.row(name, pair)}
    example, generator, mixing = example_of(world, pair), world.generator, name == MIXED
    if name not in (*world.reference_rows, MIXED):
        adaptation = world.adapt(name, pair, run.seed)
        adaptation.save(run.stem.with_suffix(".safetensors"))
        generator = adaptation.apply(generator)
        mixing = method_of(world.profile, name) in MIXING
    sets: dict[str, Iterable[Tensor]] = {name: images_of(world, example, generator, n, mixing)}
    if mixing and name != MIXED:
        sets[name + PLAIN] = images_of(world, example, generator, n)
    return sets
