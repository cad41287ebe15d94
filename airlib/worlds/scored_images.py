"""Which images of an adaptation are scored.

    sets = scored_images(world, "mtg_d", "photo-sketch", adapted, "shown")
    sets.keys()               # "mtg_d": fine styles of the reference; "mtg_d_plain": none

Images are drawn from the first of the world's latents, the same ones for every method. The protocol
"shown" is that of methods that are shown one picture of the target: its images have a truncation of
their own, and those of MindTheGap are drawn with the fine styles of the reference and without them.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from airlib.editing.style_mixing import mix_styles
from airlib.generators.base import DrawnBatches, Generator
from airlib.worlds.base import World
from airlib.worlds.examples import Example, example_of
from airlib.worlds.numbers import mixes_styles

SHOWN = "shown"  # of `evaluation.protocols`
MIXED = "mixed"  # the row of the untouched generator with the styles of the reference
PLAIN = "_plain"  # behind the name of a method: its images without them


def rows_of(world: type[World], protocol: str) -> tuple[str, ...]:
    """The reference rows of a sweep: those of the world, and for "shown" `MIXED`."""
    return (*world.reference_rows, MIXED) if protocol == SHOWN else world.reference_rows


def images_of(
    world: World, example: Example, generator: Generator, n: int, style_mixing: bool = False
) -> Sequence[Tensor]:
    """Images of the first n of the world's latents, in batches [B, 3, H, W], as "shown" has them.

    style_mixing: with the fine entries of the reference's latent in place of their own.
    """
    w = generator.map(world.z(n), world.profile.one_shot.truncation)
    w = mix_styles(w, example.inversion.latents) if style_mixing else w
    return DrawnBatches(generator, w, world.as_scored)


def scored_images(
    world: World, name: str, pair: str, adapted: Generator | None, protocol: str
) -> dict[str, Iterable[Tensor]]:
    """Images under the names that their metrics shall have.

    name: a method or arm, whose `adapted` generator is given, or a reference row without one.
    """
    n, generator = world.profile.evaluation.samples, adapted or world.generator
    if adapted is None and name not in ("source", MIXED):
        return {name: world.row(name, pair)}
    if protocol != SHOWN:
        return {name: world.batches(generator, n)}
    example = example_of(world, pair)
    mixing = name == MIXED if adapted is None else mixes_styles(world.profile, name)
    sets: dict[str, Iterable[Tensor]] = {name: images_of(world, example, generator, n, mixing)}
    if mixing and adapted is not None:
        sets[name + PLAIN] = images_of(world, example, generator, n)
    return sets
