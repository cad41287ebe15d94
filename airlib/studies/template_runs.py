"""NADA with one prompt template each, and the misalignment of each: what study 2 compares.

    runs = sweep("tiny", ["nada"], ["human-baby"], [0, 1, 2], "runs/templates",
                 options=options_of(KINDS))
    y = matrix(runs, ["human-baby"], list(KINDS), "frechet")             # [1, K]
    M = misalignments(open_world("tiny", "human"), "human-baby", list(KINDS))

The plan "templates" has all of them (`airlib sweep templates`); its runs are shipped.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from airlib.clip_space.offsets import text_direction
from airlib.clip_space.templates import templates_of
from airlib.experiments.runs import Run
from airlib.studies.prompt_templates import ENSEMBLE, offset_misalignment
from airlib.worlds import World
from airlib.worlds.memory import remembered

OUTCOMES = ("frechet", "frechet_vit", "paired_feature", "clip_distance")


def options_of(templates: Iterable[str]) -> list[dict[str, str]]:
    """What a sweep of these templates is given as `options`."""
    return [{"templates": template} for template in templates]


def template_of(run: Run) -> str:
    """The template of a run, or the name of a list of them."""
    return dict(run.options)["templates"]


def tried(runs: Sequence[Run], pairs: Sequence[str]) -> list[str]:
    """The single templates that were run on every one of `pairs`, in the order of the runs."""
    done = {(template_of(run), run.pair) for run in runs}
    names = dict.fromkeys(template_of(run) for run in runs if template_of(run) != ENSEMBLE)
    return [name for name in names if all((name, pair) in done for pair in pairs)]


def over_seeds(
    runs: Sequence[Run], pair: str, templates: Sequence[str], name: str
) -> list[list[float]]:
    """Per template its values of one pair and outcome, one for each seed."""
    found: dict[str, list[float]] = {template: [] for template in templates}
    for run in runs:
        if run.pair == pair and template_of(run) in found:
            found[template_of(run)].append(run.value(name))
    return list(found.values())


def matrix(
    runs: Sequence[Run], pairs: Sequence[str], templates: Sequence[str], name: str
) -> Tensor:
    """Means over seeds of one outcome, [pairs, templates] in float64."""
    rows = [over_seeds(runs, pair, templates, name) for pair in pairs]
    means = [[sum(values) / len(values) for values in row] for row in rows]
    return torch.tensor(means, dtype=torch.float64)


def misalignments(world: World, pair: str, templates: Sequence[str]) -> Tensor:
    """M [K] of each template: the world's source images against the references of the target."""
    encoder, texts = world.space.encoders[0], world.pair(pair)
    directions = [
        text_direction(encoder, texts.source_class, texts.target_class, templates_of(template))
        for template in templates
    ]
    return offset_misalignment(_image_offset(world, pair), torch.stack(directions).cpu())


@remembered
def _image_offset(world: World, pair: str) -> Tensor:
    """Mean image embedding of the target minus that of the source: [D]."""
    encoder = world.space.encoders[0]
    with torch.no_grad():
        source = torch.cat([encoder.embed_images(images) for images in world.row("source", pair)])
    return world.reference(pair).clip.mean(0) - source.cpu().mean(0)
