"""Study: how many solver steps does a picture need?

    images = images_by_steps(world.generator, world.sample(16), [2, 5, 10, 20, 100])
    solver_errors(images, reference=100)[10].mean()

A diffusion generator is a numerical solution: x_T is carried to an image along the flow that the
UNet describes, and more steps follow it more closely. AIR adapts with ten. What ten steps get wrong
is measured as the root mean square difference to the image that many steps make of the same x_T.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from airlib.generators.base import images_at_once
from airlib.generators.diffusion import DiffusionGenerator


def images_by_steps(
    generator: DiffusionGenerator, latents: Tensor, steps: Sequence[int]
) -> dict[int, Tensor]:
    """Draw the same latents x_T [n, ...] with different numbers of solver steps.

    Returns {steps: images [n, 3, H, W]}, nominally in [-1, 1].
    """
    return {count: _drawn(generator, latents, count) for count in steps}


def solver_errors(images: dict[int, Tensor], reference: int) -> dict[int, Tensor]:
    """How far images by few solver steps are from those by `reference` steps: {steps: errors [n]}.

    images: {steps: [n, 3, H, W]} of the same latents, from `images_by_steps`. An error is the root
    mean square difference over pixels, clipped to [-1, 1], as a share of that range.
    """
    true = images[reference].clamp(-1, 1)
    return {
        count: (drawn.clamp(-1, 1) - true).square().mean(dim=(1, 2, 3)).sqrt() / 2
        for count, drawn in images.items()
        if count != reference
    }


@torch.no_grad()
def _drawn(generator: DiffusionGenerator, latents: Tensor, steps: int) -> Tensor:
    solver = DiffusionGenerator(generator.unet, steps)
    return torch.cat([solver(part) for part in latents.split(images_at_once(solver))])
