"""Adaptations with one prompt template each: templates x pairs x seeds, restartable, in parallel.

    runs = sweep_templates("tiny", {"human-baby": ["a {}", "a sketch of a {}"]}, [0], "runs/mine")
    runs[0].values        # {"misalignment": ..., "frechet": ..., "paired_feature": ...}

    airlib sweep-templates         # all templates, both pairs; its file is shipped as SHIPPED

Every run is NADA with the profile's numbers and scored like those of `experiments.sweep`, without
what the study does not need. A run leaves PAIR-SEED-TEMPLATE.safetensors (the adaptation) and,
last, the same name with .json; a run whose JSON was made from the same numbers and weights is not
repeated.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.clip_space.offsets import text_direction
from airlib.clip_space.templates import templates_of
from airlib.experiments.processes import in_processes
from airlib.experiments.sweep import (
    SHIPPED_RUNS,
    check_pairs,
    read_record,
    recorded,
    run_inputs,
    same_inputs,
    world_of,
)
from airlib.files import write_json
from airlib.methods.nada import NADA, NADAConfig
from airlib.methods.step import Step
from airlib.profiles import Profile, load_profile
from airlib.studies.prompt_templates import ENSEMBLE, KINDS, PAPER, offset_misalignment
from airlib.worlds import World

SHIPPED = SHIPPED_RUNS / "tiny_templates.json"
OUTCOMES = ("frechet", "frechet_vit", "paired_feature", "clip_distance")
REMEMBERED = 2**26  # bytes of source images that are kept per seed


@dataclass(frozen=True)
class TemplateRun:
    """NADA with one template (or a list of them by name) on one pair with one seed.

    `values` are the misalignment of the prompt and those of `OUTCOMES` that the world has.
    """

    template: str
    pair: str
    seed: int
    values: Mapping[str, float] = field(default_factory=dict)

    def file(self, directory: str | Path, suffix: str) -> Path:
        """Where the run is kept; every template has a name of its own."""
        name = f"{self.pair}-{self.seed}-{quote(self.template, safe=' {},')}"
        return Path(directory) / f"{name}{suffix}"

    def adaptation(self, directory: str | Path) -> Adaptation:
        """What the run changed, if it was made in `directory`."""
        return Adaptation.load(self.file(directory, ".safetensors"))

    @property
    def key(self) -> tuple[str, str, int]:
        return self.template, self.pair, self.seed


def sweep_templates(
    profile: str, templates: Mapping[str, Sequence[str]], seeds: Sequence[int],
    directory: str | Path, overrides: dict | None = None, workers: int = 2,
) -> list[TemplateRun]:  # fmt: skip
    """Run and score everything that is not on disk yet, in order; `templates`: pair -> templates.

    Raises AirlibError for an unknown pair or template before anything runs.
    """
    numbers = load_profile(profile, overrides)
    check_pairs(numbers, templates)
    for pair in templates:
        for template in templates[pair]:
            templates_of(template)
    runs = [TemplateRun(t, p, s) for p in templates for s in seeds for t in templates[p]]
    frozen = tuple(sorted((overrides or {}).items()))
    jobs = [(run, Path(directory), profile, frozen) for run in runs]
    done = {run.key: run for run in in_processes(_job, jobs, workers)}
    return [done[run.key] for run in runs]


def sweep_study(profile: str, seeds: int, directory: Path, workers: int) -> Path:
    """All templates of the study and NADA's 79, on the pairs of the paper; one file of results."""
    wanted = {pair: [*KINDS, ENSEMBLE] for pair in PAPER["pairs"]}
    runs = sweep_templates(profile, wanted, range(seeds), directory, workers=workers)
    command = f"airlib sweep-templates --profile {profile} --seeds {seeds}"
    return save_template_runs(runs, load_profile(profile), directory / "templates.json", command)


def save_template_runs(
    runs: Sequence[TemplateRun], numbers: Profile, path: str | Path, command: str
) -> Path:
    """All runs in one file, with the inputs of each pair."""
    pairs = dict.fromkeys(run.pair for run in runs)
    inputs = {pair: run_inputs(pair, "nada", numbers) for pair in pairs}
    record = {"command": command, "inputs": inputs, "runs": [asdict(run) for run in runs]}
    return write_json(path, record)


def known_runs(numbers: Profile, path: str | Path = SHIPPED) -> list[TemplateRun]:
    """The runs of a file of `save_template_runs` that were made with these numbers and weights;
    none if the file does not exist.
    """
    if not Path(path).exists():
        return []
    record = read_record(Path(path))
    fits = {
        pair: pair in numbers.pairs and same_inputs(inputs, run_inputs(pair, "nada", numbers))
        for pair, inputs in record["inputs"].items()
    }
    return [TemplateRun(**run) for run in record["runs"] if fits[run["pair"]]]


def largest_difference(runs: Sequence[TemplateRun], known: Sequence[TemplateRun]) -> float | None:
    """The largest difference of a value between the same runs in both, as a share of the known
    value; None where no run is in both.
    """
    there = {run.key: run.values for run in known}
    both = [(run.values, there[run.key]) for run in runs if run.key in there]
    shares = [abs(a[name] / b[name] - 1) for a, b in both for name in b if b[name]]
    return max(shares) if shares else None


def tried(runs: Sequence[TemplateRun], pairs: Sequence[str]) -> list[str]:
    """The single templates that were run on every one of `pairs`, in the order of the runs."""
    done = {(run.template, run.pair) for run in runs}
    names = dict.fromkeys(run.template for run in runs if run.template != ENSEMBLE)
    return [name for name in names if all((name, pair) in done for pair in pairs)]


def over_seeds(
    runs: Sequence[TemplateRun], pair: str, templates: Sequence[str], name: str
) -> list[list[float]]:
    """Per template its values of one pair and outcome, one for each seed."""
    found: dict[str, list[float]] = {template: [] for template in templates}
    for run in runs:
        if run.pair == pair and run.template in found:
            found[run.template].append(run.values[name])
    return list(found.values())


def matrix(
    runs: Sequence[TemplateRun], pairs: Sequence[str], templates: Sequence[str], name: str
) -> Tensor:
    """Means over seeds of one outcome, [pairs, templates] in float64."""
    rows = [over_seeds(runs, pair, templates, name) for pair in pairs]
    means = [[sum(values) / len(values) for values in row] for row in rows]
    return torch.tensor(means, dtype=torch.float64)


# -- one world ---------------------------------------------------------------------------------
def misalignments(world: World, pair: str, templates: Sequence[str]) -> Tensor:
    """M [K] of each template: the world's source images against the references of the target."""
    encoder, texts = world.space.encoders[0], world.pair(pair)
    directions = [
        text_direction(encoder, texts.source_class, texts.target_class, templates_of(template))
        for template in templates
    ]
    return offset_misalignment(_image_offset(world, pair), torch.stack(directions).cpu())


@cache
def _image_offset(world: World, pair: str) -> Tensor:
    """Mean image embedding of the target minus that of the source: [D]."""
    encoder = world.space.encoders[0]
    with torch.no_grad():
        source = torch.cat([encoder.embed_images(images) for images in world.row("source", pair)])
    return world.reference(pair).clip.mean(0) - source.cpu().mean(0)


class _OneTemplate(NADA):
    """NADA that takes the source's images and embeddings of a step from an earlier run, if it can.

    For one seed they are the same with every template, and a quarter of the work.
    """

    def __init__(self, world: World, pair: str, template: str, memory: MutableMapping) -> None:
        texts = world.pair(pair)
        classes = texts.source_class, texts.target_class
        super().__init__(world.space, *classes, NADAConfig(template))
        self.memory = memory

    def __call__(self, step: Step) -> dict[str, Tensor]:
        if step.index in self.memory:
            step.source_images, step.source_embeddings = self.memory[step.index]
        elif (len(self.memory) + 1) * step.source_images.nbytes <= REMEMBERED:
            self.memory[step.index] = step.source_images, step.source_embeddings
        return super().__call__(step)


@cache
def _memory(profile: str, source: str, seed: int, overrides: tuple) -> dict:
    """Step -> the source's images and embeddings; one per process."""
    return {}


def _job(run: TemplateRun, directory: Path, profile: str, overrides: tuple) -> TemplateRun:
    """Run, score and save; or read what an earlier call saved."""
    numbers = load_profile(profile, dict(overrides))
    inputs = run_inputs(run.pair, "nada", numbers)
    values = recorded(
        run.file(directory, ".json"), inputs, "values",
        lambda: _adapted(run, directory, profile, numbers, overrides),
    )  # fmt: skip
    return TemplateRun(*run.key, values)


def _adapted(
    run: TemplateRun, directory: Path, profile: str, numbers: Profile, overrides: tuple
) -> dict[str, float]:
    """Adapts, saves the adaptation, and returns its values."""
    source = numbers.pairs[run.pair].source
    world = world_of(profile, source, overrides)
    values = {"misalignment": misalignments(world, run.pair, [run.template]).item()}
    objective = _OneTemplate(
        world, run.pair, run.template, _memory(profile, source, run.seed, overrides)
    )
    adaptation = world.adapt(objective, run.pair, run.seed)
    adaptation.save(run.file(directory, ".safetensors"))
    images = world.batches(adaptation.apply(world.generator), numbers.evaluation.samples)
    metrics = world.score(images, run.pair, run.template, run.seed)  # no method: no truth gap
    return values | {metric.name: metric.value for metric in metrics if metric.name in OUTCOMES}
