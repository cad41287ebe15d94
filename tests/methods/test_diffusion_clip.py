"""DiffusionCLIP: its losses by hand, and tuning on a few inverted pictures."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import assert_continues, small_generator, small_space, small_unet
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.editing.inverters import ByDdim, edit
from airlib.errors import AirlibError
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.methods.diffusion_clip import (
    TUNING,
    DiffusionCLIP,
    DiffusionCLIPConfig,
    picture_generator,
)
from airlib.methods.nada import NADA
from airlib.methods.step import Step
from airlib.parameterizations.stylegan2 import full
from airlib.seeding import rng

SPACE = small_space()
UNADAPTED = DiffusionGenerator(small_unet(), steps=3)
CONFIG = AdaptationConfig(4, batch=1, learning_rate=1e-3, betas=(0.9, 0.999), checkpoint_every=1)
WITH_FACES = DiffusionCLIPConfig(direction=3.0, l1=0.3, identity=0.4)


def pictures(n: int = 4, purpose: str = "pictures") -> Tensor:
    """Smooth ones, uniform in [-1, 1]."""
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=rng(0, purpose)) - 1
    return F.interpolate(coarse, (16, 16), mode="bilinear")


def faces(images: Tensor) -> Tensor:
    return F.normalize(F.avg_pool2d(images, 4).flatten(1), dim=1)


SOURCE = picture_generator(UNADAPTED, pictures(), DdimSchedule(400, 6, 3))


def moved(generator: DdimGenerator) -> DdimGenerator:
    copy = generator.copy_frozen()
    for name, parameter in copy.named_parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=rng(0, name))
    return copy


def step_of(source: torch.nn.Module, adapted: torch.nn.Module, views: int = 0) -> Step:
    latents = source.sample_latents(3, rng(1))
    return Step(0, 10, 0, source, adapted, SPACE, latents, views, "shared")


# --- losses --------------------------------------------------------------------------------------


def test_losses_by_hand():
    """One image after the other, with NumPy's idea of a mean and a logarithm."""
    adapted = moved(SOURCE)
    loss = DiffusionCLIP(SPACE, "human", "dog", SOURCE.pictures, WITH_FACES, faces)
    step = step_of(SOURCE, adapted)
    found = {name: value.item() for name, value in loss(step).items()}
    encoder = SPACE.encoders[0]
    direction = NADA(SPACE, "human", "dog").directions[0]
    cosines, differences, likeness = [], [], []
    for latent in step.latents:
        (row,) = [i for i, x in enumerate(SOURCE.pictures.latents) if torch.equal(x, latent)]
        original = pictures()[row : row + 1]
        with torch.no_grad():
            image = adapted(latent[None])
            offset = (encoder.embed_images(image) - encoder.embed_images(original))[0]
        cosines.append((offset @ direction / offset.norm() / direction.norm()).item())
        differences.append((image - original).abs().mean().item())
        likeness.append((faces(image) @ faces(original).T).item())
    angle = 1 - sum(cosines) / 3
    assert found["direction"] == pytest.approx(-3 * math.log((2 - angle) / 2), rel=1e-3)
    assert found["l1"] == pytest.approx(0.3 * sum(differences) / 3, rel=1e-4)
    assert found["identity"] == pytest.approx(0.4 * (1 - sum(likeness) / 3), rel=1e-3)


@pytest.mark.parametrize(("cosine", "value"), [(1.0, 0.0), (0.0, 0.6931), (-0.8, 2.3026)])
def test_the_direction_is_zero_when_aligned_and_has_no_upper_end(cosine, value):
    loss = DiffusionCLIP(SPACE, "human", "dog", config=DiffusionCLIPConfig(direction=1.0))
    (direction,) = loss.directions
    across = torch.randn(direction.shape, generator=rng(0, "across"))
    across = F.normalize(across - (across @ direction) * direction, dim=0)
    offset = 0.1 * (cosine * direction + math.sqrt(1 - cosine**2) * across)

    class Prepared:
        latents = torch.zeros(1)
        source_images = adapted_images = torch.zeros(1, 3, 4, 4)
        source_embeddings = None

        def offsets_from(self, _reference: None) -> list[Tensor]:
            return [offset[None]]

    assert loss(Prepared())["direction"].item() == pytest.approx(value, abs=1e-3)


def test_it_has_the_gradient_of_the_same_losses_by_finite_differences():
    """Of all terms together, in float64, along a random direction in the weights."""
    space = small_space()
    space.encoders[0].model.double()
    unadapted = DiffusionGenerator(small_unet().double())
    source = picture_generator(unadapted, pictures(2).double(), DdimSchedule(400, 4, 3))
    adapted, h = moved(source), 1e-4
    loss = DiffusionCLIP(space, "human", "dog", source.pictures, WITH_FACES, faces)
    loss.directions = [direction.double() for direction in loss.directions]
    latents = source.sample_latents(2, rng(1))

    def total(generator: DdimGenerator) -> Tensor:
        step = Step(0, 10, 0, source, generator, space, latents, 0, "shared")
        return torch.stack(list(loss(step).values())).sum()

    ways = {n: torch.randn(p.shape, generator=rng(2, n)) for n, p in adapted.named_parameters()}

    def along(step: float) -> float:
        copy = adapted.copy_frozen()
        for name, parameter in copy.named_parameters():
            parameter += step * ways[name]
        with torch.no_grad():
            return total(copy).item()

    adapted.requires_grad_(True)
    total(adapted).backward()
    exact = sum((p.grad * ways[name]).sum().item() for name, p in adapted.named_parameters())
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    assert abs(exact) > 1e-3 and numeric == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow  # adapts
def test_without_pictures_the_source_s_own_images_are_kept():
    loss = DiffusionCLIP(SPACE, "human", "dog")
    assert loss(step_of(SOURCE, SOURCE.copy_frozen()))["l1"].item() == 0
    with_pictures = DiffusionCLIP(SPACE, "human", "dog", SOURCE.pictures)
    assert with_pictures(step_of(SOURCE, SOURCE.copy_frozen()))["l1"].item() > 0
    config = AdaptationConfig(2, batch=2, learning_rate=1e-4)
    for source in (small_generator(), UNADAPTED):
        result = adapt(source, SPACE, loss, full(), config)
        assert {"direction", "l1"} <= set(result.log[-1])


def test_views_are_compared_with_views():
    loss = DiffusionCLIP(SPACE, "human", "dog", SOURCE.pictures)
    value = loss(step_of(SOURCE, moved(SOURCE), views=2))["direction"]
    assert value.isfinite() and value > 0


# --- tuning --------------------------------------------------------------------------------------


def run(steps: int = 4, **options) -> Adaptation:
    loss = DiffusionCLIP(SPACE, "human", "dog", SOURCE.pictures, WITH_FACES, faces)
    config = AdaptationConfig(**{**vars(CONFIG), "steps": steps})
    return adapt(SOURCE, SPACE, loss, full(), config, **options)


@pytest.mark.slow  # adapts
def test_tuning_turns_the_pictures_towards_the_text():
    log = run(20).log
    first, last = (
        sum(entry["direction"] for entry in part) / len(part) for part in (log[:6], log[-6:])
    )
    assert last < 0.8 * first


@pytest.mark.slow  # adapts
def test_what_was_tuned_edits_other_pictures_with_the_same_bits_after_a_file(tmp_path):
    assert_continues(run, tmp_path / "run", last=2)
    result = run()
    loaded = Adaptation.load(result.save(tmp_path / "dog.safetensors"))
    others, inverter = pictures(2, "others"), ByDdim(UNADAPTED, DdimSchedule(400, 5, 4))
    edits = [edit(inverter, tuned.apply(UNADAPTED), others).edited for tuned in (result, loaded)]
    assert torch.equal(*edits)
    plain = inverter(others)
    assert not torch.allclose(edits[0], plain.reconstruction, atol=1e-4)


def test_a_run_does_not_continue_with_other_pictures(tmp_path):
    run(1, directory=tmp_path)
    other = picture_generator(UNADAPTED, pictures(4, "others"), SOURCE.schedule)
    loss = DiffusionCLIP(SPACE, "human", "dog", other.pictures, WITH_FACES, faces)
    config = AdaptationConfig(**{**vars(CONFIG), "steps": 1})
    with pytest.raises(AirlibError, match="other settings"):
        adapt(other, SPACE, loss, full(), config, tmp_path)


def test_the_picture_generator_inverts_once_and_keeps_the_source_s_weights():
    frugal = DiffusionGenerator(small_unet(), steps=2, checkpointing=True, gradient_steps=1)
    found = picture_generator(frugal, pictures(2), DdimSchedule(400, 4, 3))
    assert found.unet is frugal.unet and found.checkpointing and found.gradient_steps == 3
    expected = DdimGenerator(frugal.unet, DdimSchedule(400, 4, 3)).invert(pictures(2))
    assert torch.equal(found.pictures.latents, expected)
    assert torch.equal(found.pictures.images, pictures(2))
    assert (TUNING.t0, TUNING.inversion_steps, TUNING.steps) == (500, 40, 6)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pictures(1)[:, :1], r"got \[1, 1, 16, 16\]"),
        (torch.zeros(1, 3, 8, 8), "resize them"),
        (pictures(1) + 2, "scale them"),
    ],
)
def test_what_cannot_be_inverted_is_refused(images, words):
    with pytest.raises(AirlibError, match=words):
        picture_generator(UNADAPTED, images)


def test_faces_need_a_weight_and_a_network():
    with pytest.raises(AirlibError, match="give both or none"):
        DiffusionCLIP(SPACE, "human", "dog", config=WITH_FACES)
    with pytest.raises(AirlibError, match="give both or none"):
        DiffusionCLIP(SPACE, "human", "dog", identity=faces)


def test_latents_of_other_pictures_are_refused():
    loss = DiffusionCLIP(SPACE, "human", "dog", SOURCE.pictures)
    with pytest.raises(AirlibError, match="none of the inverted pictures"):
        loss(step_of(UNADAPTED, UNADAPTED.copy_frozen()))
