"""How many solver steps a picture needs."""

import pytest
import torch
from small_networks import small_unet

from airlib.generators.diffusion import DiffusionGenerator
from airlib.seeding import rng
from airlib.studies.solver_steps import images_by_steps, solver_errors

GENERATOR = DiffusionGenerator(small_unet(), steps=4)


def test_an_error_by_hand():
    """Off by 0.5 everywhere is a quarter of the range; what lies outside of it is cut off."""
    black = torch.full((2, 3, 4, 4), -1.0)
    grey = torch.stack([black[0] + 0.5, black[1] - 3])
    assert solver_errors({100: black, 10: grey}, 100)[10].tolist() == pytest.approx([0.25, 0.0])


def test_steps_are_those_of_the_generator():
    latents = GENERATOR.sample_latents(3, rng(0))
    images = images_by_steps(GENERATOR, latents, [2, 4])
    assert torch.equal(images[4], GENERATOR(latents))
    assert not torch.equal(images[2], images[4])


@pytest.mark.slow  # draws many images
def test_more_steps_come_nearer_to_many():
    images = images_by_steps(GENERATOR, GENERATOR.sample_latents(4, rng(1)), [5, 10, 20, 60])
    errors = [error.mean() for error in solver_errors(images, 60).values()]
    assert errors[0] > errors[1] > errors[2] > 0
