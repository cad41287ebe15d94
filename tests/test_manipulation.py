"""Manipulation of pictures: how well they come back, and what the adapted model makes of them."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_unet
from torch import Tensor

from airlib.editing.manipulation import edit, invert, redraw
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.lora import lora
from airlib.seeding import rng

SOURCE = DiffusionGenerator(small_unet(), steps=3)
SCHEDULE = DdimSchedule(t0=400, inversion_steps=5, steps=4)
PERCEPTUAL = PerceptualEmbedding(lambda images: [F.avg_pool2d(images, size) for size in (2, 4)])


def pictures(n: int = 3) -> Tensor:
    """Smooth ones, uniform in [-1, 1]."""
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=rng(0, "pictures")) - 1
    return F.interpolate(coarse, (16, 16), mode="bilinear")


def adapted() -> DiffusionGenerator:
    copy = SOURCE.copy_frozen()
    for name, parameter in copy.named_parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=rng(0, name))
    return copy


def test_more_steps_bring_the_picture_back_more_exactly():
    errors = [
        invert(SOURCE, pictures(), DdimSchedule(400, steps, steps)).errors["mse"].mean().item()
        for steps in (3, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.2 * errors[0]


def test_a_further_return_leaves_less_of_the_picture_in_the_latent():
    similar = [
        F.cosine_similarity(invert(SOURCE, pictures(), DdimSchedule(t0, 5, 5)).latents.flatten(1),
                            pictures().flatten(1)).mean().item()
        for t0 in (50, 300, 900)
    ]  # fmt: skip
    assert similar == sorted(similar, reverse=True)


def test_an_edit_is_an_inversion_by_the_source_drawn_by_the_adapted_model():
    found, target = edit(SOURCE, adapted(), pictures(), SCHEDULE, PERCEPTUAL), adapted()
    plain = invert(SOURCE, pictures(), SCHEDULE, PERCEPTUAL)
    assert torch.equal(found.latents, plain.latents)
    assert torch.equal(found.reconstruction, plain.reconstruction)
    with torch.no_grad():
        assert torch.equal(DdimGenerator(SOURCE.unet, SCHEDULE).invert(pictures()), found.latents)
        assert torch.equal(DdimGenerator(target.unet, SCHEDULE)(found.latents), found.edited)
    assert torch.equal(redraw(target, found.latents, SCHEDULE), found.edited)
    assert not torch.allclose(found.edited, found.reconstruction, atol=1e-3)
    assert not any(value.requires_grad for value in (found.latents, found.edited))


def test_errors_are_those_of_the_reconstruction():
    found = edit(SOURCE, adapted(), pictures(), SCHEDULE, PERCEPTUAL)
    difference = found.reconstruction - pictures()
    torch.testing.assert_close(found.errors["mse"], difference.square().mean(dim=(1, 2, 3)))
    clipped = (found.reconstruction.clamp(-1, 1) - pictures()).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found.errors["l1"], clipped)
    distance = PERCEPTUAL.paired_distance(found.reconstruction, pictures())
    assert torch.equal(found.errors["perceptual"], distance)
    assert set(invert(SOURCE, pictures(), SCHEDULE).errors) == {"mse", "l1"}


def test_an_adaptation_that_changes_nothing_edits_nothing():
    untrained = SOURCE.copy_frozen()
    lora(2).attach(untrained)
    found = edit(SOURCE, untrained, pictures(), SCHEDULE)
    assert torch.equal(found.edited, found.reconstruction)


def test_pictures_are_edited_without_regard_to_each_other():
    together = edit(SOURCE, adapted(), pictures(), SCHEDULE)
    alone = edit(SOURCE, adapted(), pictures()[2:], SCHEDULE)
    torch.testing.assert_close(together.edited[2:], alone.edited, atol=1e-3, rtol=1e-3)


NOT_FINITE = pictures(1).index_fill(3, torch.tensor([4]), float("nan"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pictures(1)[0], r"expected pictures \[n, 3, 16, 16\], got \[3, 16, 16\]"),
        (pictures(1)[:, :1], r"got \[1, 1, 16, 16\]"),
        (torch.zeros(1, 3, 32, 32), "resize them to what the generator draws"),
        (torch.zeros(0, 3, 16, 16), r"got \[0, 3, 16, 16\]"),
        (NOT_FINITE, "NaN or infinite"),
        (pictures(1) * 127.5 + 127.5, "and not from -1 to 1; scale them"),
    ],
)
def test_what_cannot_be_edited_is_refused(images, words):
    with pytest.raises(AirlibError, match=words):
        edit(SOURCE, SOURCE, images, SCHEDULE)


def test_models_of_different_sizes_are_refused():
    with pytest.raises(AirlibError, match="16 pixels and the adapted model 8"):
        edit(SOURCE, DiffusionGenerator(small_unet(size=8)), pictures(), SCHEDULE)
