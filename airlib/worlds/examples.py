"""One picture of a pair's target, for the methods that are shown what to become.

example = example_of(world, "photo-sketch")
example.picture              # [1, 3, H, H] in [-1, 1]
example.inversion.latents    # [1, num_ws, w_dim]: the source's image that resembles it
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from airlib.editing.inversion import Inversion, InversionConfig, invert
from airlib.worlds.inverting import perceptual_of, prior_of
from airlib.worlds.memory import remembered

if TYPE_CHECKING:
    from airlib.worlds.base import World


@dataclass(frozen=True, eq=False)
class Example:
    """A picture [1, 3, H, H] of a pair's target domain, and its inversion in the source domain;
    both on the device of the generator.
    """

    pair: str
    picture: Tensor
    inversion: Inversion


def picture_of(world: "World", pair: str) -> Tensor:
    """The picture [1, 3, H, H] alone: in a world that knows the truth the target of a latent that
    is used for nothing else, elsewhere the first of the pair's reference images.
    """
    if world.knows_truth:
        return world.truth(pair, world.z(1, "one-shot reference"))
    return next(iter(world.reference_images(pair)))[:1]


@remembered
def example_of(world: "World", pair: str) -> Example:
    """The picture of a pair and its inversion by the numbers of the profile's [one_shot.inversion].

    Raises AirlibError for a world whose source is no StyleGAN2, or that has no judge to compare
    pictures with.
    """
    numbers, perceptual = world.profile.one_shot.inversion, perceptual_of(world)
    config = InversionConfig(numbers.steps, numbers.learning_rate, numbers.prior_weight)
    prior = prior_of(world, numbers.prior_samples, numbers.prior_floor)
    picture = picture_of(world, pair)
    inversion = invert(world.stylegan2, picture, perceptual, prior, config)
    return Example(pair, picture.to(inversion.latents.device), inversion)
