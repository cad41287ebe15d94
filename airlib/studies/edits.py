"""Study: pictures that no generator drew, carried into another domain by adapted models.

    found = edited(world, adaptation, world.pictures(12))            # one adaptation
    inverted, edits = edited_by(world, {"NADA": nada, "AIR": air}, world.pictures(12))
    metrics = score(world, pair, edits["AIR"], world.pictures(12), "AIR", seed=0)

AIR shows this in Fig. 9 and 10 and compares CLIP distance to references. In the tiny world the
right answer is known: the same sitter drawn in the target domain. So the paired distances are
scored as well, and `kept`, the pixel distance to the original picture, which an edit may not forget
either. How a world inverts pictures is in its profile (`worlds.inverting`); they are compared by
`studies.walks.inverted`.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.editing.inversion import Inversion
from airlib.editing.inverters import (
    Manipulation,
    edit,
)
from airlib.evaluation.perceptual import paired_l1
from airlib.evaluation.protocols import scores_of
from airlib.results import Metric
from airlib.worlds import World
from airlib.worlds.inverting import Way, inverter_of


def edited(world: World, adaptation: Adaptation, pictures: Tensor) -> Manipulation:
    """Pictures [n, 3, H, H] of the generator's size, inverted, drawn again, and edited."""
    return edit(inverter_of(world), adaptation.apply(world.generator), pictures)


def edited_by(
    world: World, adaptations: Mapping[str, Adaptation], pictures: Tensor, way: Way | None = None
) -> tuple[Inversion, dict[str, Tensor]]:
    """Pictures [n, 3, H, H], inverted once, and their edits [n, 3, H, H] by adaptations by name."""
    inverter = inverter_of(world, way)
    found = inverter(pictures)
    return found, {
        name: inverter.draw(adaptation.apply(world.generator), found.latents)
        for name, adaptation in adaptations.items()
    }


def score(
    world: World, pair: str, edits: Tensor, pictures: Tensor, method: str, seed: int
) -> list[Metric]:
    """Metrics of `edits` of the first of `world.pictures`, both [n, 3, H, H]."""
    n, truth = len(edits), world.edited_truth(pair, len(edits))
    reference = replace(world.reference(pair), truth=truth)
    parts = world.as_scored(edits).split(50)
    found = scores_of(parts, reference, pair=pair, method=method, seed=seed).metrics
    kept = paired_l1(edits, pictures[:n].to(edits.device)).mean().item() / 2
    how = f"kept{n}: share of the pixel range, to the picture that was edited"
    return [*found, Metric("kept_l1", kept, n, None, how, pair, method, seed)]
