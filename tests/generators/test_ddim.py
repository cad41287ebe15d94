"""DDIM: the recorded moves, there and back again, and a generator of inverted pictures."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models import UNet2DModel
from small_networks import assert_continues, small_space, small_unet
from torch import Tensor, nn

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.checkpoints.guided_diffusion import from_guided_diffusion
from airlib.errors import AirlibError
from airlib.generators.ddim import (
    ABAR,
    DdimGenerator,
    DdimSchedule,
    InvertedImages,
    ddim,
    ddim_times,
)
from airlib.generators.diffusion import DiffusionGenerator
from airlib.methods import air
from airlib.methods.nada import NADA
from airlib.parameterizations.lora import lora
from airlib.parameterizations.stylegan2 import full
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULE = DdimSchedule(t0=400, inversion_steps=5, steps=3)


def recorded(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}


class Constant(nn.Module):
    """Predicts the same noise everywhere; the variance beside it must not be looked at."""

    config = SimpleNamespace(in_channels=3, out_channels=6, sample_size=8)
    class_embedding, device = None, torch.device("cpu")

    def __init__(self, noise: Tensor):
        super().__init__()
        self.noise = nn.Parameter(noise)

    def forward(self, x: Tensor, t: int) -> SimpleNamespace:
        noise = self.noise.expand_as(x)
        return SimpleNamespace(sample=torch.cat([noise, torch.full_like(x, 1e6)], dim=1))


def random(*shape: int, purpose: str = "images", dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(shape, generator=rng(0, purpose), dtype=dtype) - 1


def inverted(unet: UNet2DModel, n: int = 4, schedule: DdimSchedule = SCHEDULE) -> DdimGenerator:
    size = unet.config.sample_size
    images = random(n, 3, size, size, dtype=unet.dtype)
    pictures = InvertedImages(images, DdimGenerator(unet, schedule).invert(images))
    return DdimGenerator(unet, schedule, pictures)


# --- moves ---------------------------------------------------------------------------------------


def test_every_move_equals_the_recorded_one():
    """Ten DDIM steps of P2's code, without clipping, at 900, 800, ..., 0 and then -1."""
    golden = recorded("adm_unet_tiny.npz")
    state = {k.removeprefix("sd/"): v.float() for k, v in golden.items() if k.startswith("sd/")}
    imported = from_guided_diffusion(state, "tiny.pt", 16)
    unet = UNet2DModel(**imported.config | {"sample_size": 16})
    unet.load_state_dict(imported.tensors)
    np.testing.assert_allclose(golden["alphas_cumprod"], ABAR, rtol=1e-12)
    times = [*reversed(golden["respace/ddim10/timesteps"].tolist()), -1]
    assert times[0] == 900 and times[-2:] == [0, -1]
    x = golden["xT"]
    with torch.no_grad():
        for i, expected in enumerate(golden["ddim10_clip0/samples"]):
            x = ddim(lambda x, t: unet(x, t).sample[:, :3], x, times[i : i + 2])
            torch.testing.assert_close(x, expected, atol=5e-5, rtol=5e-5)


def test_the_exact_noise_leads_to_the_exact_solution():
    """For data from N(mu, s^2) the flow is known: x_t keeps its deviation from the mean, in units
    of the standard deviation at t. The recording of DPM-Solver has the same toy.
    """
    toy = recorded("dpm10.npz")
    abar = torch.from_numpy(ABAR)

    def moments(t: int) -> tuple[Tensor, Tensor]:
        return abar[t].sqrt() * toy["mu"], (abar[t] * toy["s"] ** 2 + 1 - abar[t]).sqrt()

    def predict(x: Tensor, t: int) -> Tensor:
        mean, deviation = moments(t)
        return (1 - abar[t]).sqrt() * (x - mean) / deviation**2

    (mean, deviation), (mean_0, deviation_0) = moments(999), moments(0)
    exact = mean_0 + deviation_0 * (toy["xT"] - mean) / deviation
    errors = []
    for steps in (10, 100, 1000):
        down = ddim(predict, toy["xT"], ddim_times(999, steps)[::-1])
        up = ddim(predict, exact, ddim_times(999, steps))
        errors.append([(down - exact).abs().max(), (up - toy["xT"]).abs().max()])
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert (torch.tensor(fine) < 0.25 * torch.tensor(coarse)).all()  # of first order
    assert max(errors[-1]) < 0.03


@pytest.mark.parametrize(("t0", "steps"), [(400, 40), (999, 10), (601, 7)])
def test_constant_noise_comes_back_to_the_picture(t0, steps):
    """Fact: the moves up and down undo each other; the last, to -1, takes sqrt(1 - abar_0) eps."""
    noise = torch.randn(3, 8, 8, generator=rng(0, "noise"), dtype=torch.float64)
    images = random(2, 3, 8, 8, dtype=torch.float64)
    generator = DdimGenerator(Constant(noise), DdimSchedule(t0, steps, steps))
    latents = generator.invert(images)
    times = ddim_times(t0, steps)[::-1]
    back = ddim(lambda x, t: noise.expand_as(x), latents, times)
    torch.testing.assert_close(back, images, atol=1e-12, rtol=0)
    expected = (images - (1 - ABAR[0]) ** 0.5 * noise) / ABAR[0] ** 0.5
    torch.testing.assert_close(generator(latents), expected, atol=1e-12, rtol=0)
    assert 0.009 < ((generator(latents) - images) / noise).abs().mean() < 0.011


def test_times_are_cut_to_whole_steps_as_in_the_official_code():
    assert ddim_times(400, 6) == [0, 80, 160, 240, 320, 400]
    assert ddim_times(500, 4) == [0, 166, 333, 500]
    assert ddim_times(900, 10)[7] == 699  # of 699.9999999999999
    assert ddim_times(5, 6) == list(range(6))


def test_noise_is_predicted_at_the_time_that_a_move_leaves():
    unet, seen = small_unet(size=8), []
    generator = DdimGenerator(unet, DdimSchedule(400, inversion_steps=3, steps=2))
    hook = unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    generator(generator.invert(random(1, 3, 8, 8)))
    hook.remove()
    assert seen == [0, 200, 400, 0]


# --- gradients -----------------------------------------------------------------------------------


def test_the_gradient_in_the_weights_equals_finite_differences():
    generator = inverted(small_unet(size=8).double(), 2)
    x, h = generator.sample_latents(2, rng(0)), 1e-4
    weights = torch.randn(x.shape, generator=rng(1), dtype=x.dtype)
    ways = {
        name: torch.randn(p.shape, generator=rng(2, name), dtype=x.dtype)
        for name, p in generator.named_parameters()
    }

    def moved(step: float) -> float:
        copy = generator.copy_frozen()
        for name, parameter in copy.named_parameters():
            parameter += step * ways[name]
        return (weights * copy(x)).mean().item()

    generator.requires_grad_(True)
    (weights * generator(x)).mean().backward()
    exact = sum((p.grad * ways[name]).sum().item() for name, p in generator.named_parameters())
    generator.requires_grad_(False)
    numeric = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert abs(exact) > 1e-3 and numeric == pytest.approx(exact, rel=1e-6)


def test_how_the_gradient_is_computed_changes_no_image():
    source = inverted(small_unet(size=8), 2)
    x, found = source.pictures.latents, []
    for checkpointing, k in ((False, None), (True, None), (False, 1), (False, 3)):
        generator = DdimGenerator(source.unet, SCHEDULE, None, checkpointing, k)
        generator.requires_grad_(True)
        images = generator(x)
        (gradient,) = torch.autograd.grad(images.square().sum(), [generator.unet.conv_in.weight])
        found.append((images.detach(), gradient))
    assert all(torch.equal(images, found[0][0]) for images, _ in found)
    assert torch.equal(found[1][1], found[0][1]) and torch.equal(found[3][1], found[0][1])
    assert not torch.allclose(found[2][1], found[0][1])  # the last move alone


# --- a generator like any other ------------------------------------------------------------------


def test_every_picture_is_drawn_before_one_comes_again():
    generator = inverted(small_unet(size=8), 4)
    latents = generator.pictures.latents
    for n in (4, 10):
        drawn = generator.sample_latents(n, rng(0))
        times = (drawn.flatten(1)[:, None] == latents.flatten(1)).all(dim=2).sum(dim=0)
        assert drawn.shape == (n, 3, 8, 8) and set(times.tolist()) <= {n // 4, -(-n // 4)}
        assert torch.equal(drawn, generator.sample_latents(n, rng(0)))
    assert not torch.equal(drawn, generator.sample_latents(10, rng(1)))
    assert generator.sample_noise(2, rng(0)) == [] and generator.resolution == 8


def test_latents_know_their_picture():
    pictures = inverted(small_unet(size=8), 4).pictures
    assert torch.equal(pictures.images_of(pictures.latents[[2, 0, 2]]), pictures.images[[2, 0, 2]])
    with pytest.raises(AirlibError, match="none of the inverted pictures"):
        pictures.images_of(torch.stack([pictures.latents[0], pictures.latents[1] + 1e-3]))


def test_a_copy_shares_its_pictures_and_nothing_else():
    generator = inverted(small_unet(size=8))
    copy, x = generator.copy_frozen(), generator.pictures.latents[:1]
    assert copy.pictures is generator.pictures and copy.schedule == generator.schedule
    before = generator(x)
    for parameter in copy.parameters():
        assert not parameter.requires_grad
        parameter.add_(0.1)
    assert torch.equal(generator(x), before) and not torch.allclose(copy(x), before)
    plain = DiffusionGenerator(generator.unet)
    assert generator.num_layers == plain.num_layers == 9
    assert generator.layer(3) is plain.layer(3)
    assert list(generator.state_dict()) == list(plain.state_dict())


def run(source: DdimGenerator, **options) -> Adaptation:
    config = AdaptationConfig(4, batch=2, learning_rate=1e-3, checkpoint_every=1)
    return adapt(source, space := small_space(), NADA(space, "human", "dog"), lora(2), config,
                 **options)  # fmt: skip


@pytest.mark.slow  # runs again and again
def test_an_adaptation_saved_and_resumed_has_the_same_bits_and_fits_the_plain_generator(tmp_path):
    source = inverted(small_unet())
    assert_continues(lambda **options: run(source, **options), tmp_path / "run", last=2)
    result = run(source)
    loaded = Adaptation.load(result.save(tmp_path / "dog.safetensors"))
    latents = source.sample_latents(2, rng(0))
    with torch.no_grad():
        images = [made.apply(source)(latents) for made in (result, loaded)]
        assert torch.equal(*images) and not torch.equal(images[0], source(latents))
        plain = DiffusionGenerator(source.unet, steps=3)
        other = DdimGenerator(loaded.apply(plain).unet, source.schedule)
        assert torch.equal(other(latents), images[0])


@pytest.mark.slow  # adapts
def test_air_adapts_it_as_it_adapts_any_generator():
    source, space = inverted(small_unet()), small_space()
    numbers = air.AIRConfig(0.4, 0.2, prompt_pairs=8, prompt_steps=2)
    config = AdaptationConfig(steps=5, batch=2, learning_rate=1e-3)
    result = adapt(source, space, air.AIR(space, "human", "dog", numbers), full(), config)
    latents = source.sample_latents(2, rng(0))
    with torch.no_grad():
        assert not torch.equal(result.apply(source)(latents), source(latents))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"t0": 0}, "no return from time 0; choose t0 from 1 to 999"),
        ({"t0": 1000}, "no return from time 1000"),
        ({"steps": 1}, "1 steps between 0 and 400 are impossible; choose 2 to 401"),
        ({"inversion_steps": 402}, "402 steps between"),
    ],
)
def test_impossible_schedules_are_refused(numbers, words):
    with pytest.raises(AirlibError, match=words):
        DdimSchedule(**numbers)


def test_what_it_cannot_do_is_refused():
    generator = inverted(small_unet(size=8))
    with pytest.raises(AirlibError, match="no noise maps"):
        generator(generator.pictures.latents, "const")
    with pytest.raises(AirlibError, match="no inverted pictures"):
        DdimGenerator(generator.unet, SCHEDULE).sample_latents(1, rng(0))
    with pytest.raises(AirlibError, match="no truncation"):
        generator.sample_latents(1, rng(0), truncation=0.7)
