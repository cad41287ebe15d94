"""The diffusion generator: the right images, the right gradients, and the contract of a generator.

The toy of `dpm10.npz` is a noise predictor in closed form, for data from N(mu, diag s^2).
"""

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import small_generator, small_space, small_unet
from torch import Tensor, nn

from airlib import adaptation
from airlib.adaptation import AdaptationConfig, adapt
from airlib.checkpoints.guided_diffusion import from_guided_diffusion
from airlib.errors import AirlibError
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.solver import dpm_solver
from airlib.methods import air, nada, step
from airlib.methods.regularizers import InDomainAngle
from airlib.parameterizations.stylegan2 import adaptive_layers, full
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"


def recorded(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}


class GaussianToy(nn.Module):
    """Exact noise of N(mu, s^2) in every channel, and a variance that must not be looked at."""

    config = SimpleNamespace(in_channels=3, out_channels=6, sample_size=8)
    class_embedding = None

    def __init__(self, mu: Tensor, s: Tensor, betas: Tensor):
        super().__init__()
        self.mu, self.s, self.kept = mu, s, torch.cumprod(1 - betas, dim=0)

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        kept = self.kept[t]
        noise = x - kept.sqrt() * self.mu
        noise = (1 - kept).sqrt() * noise / (kept * self.s**2 + 1 - kept)
        return SimpleNamespace(sample=torch.cat([noise, torch.full_like(noise, 1e6)], dim=1))


def weighted_mean(images: Tensor) -> Tensor:
    """A scalar in which every pixel counts differently."""
    weights = torch.randn(images.shape, generator=rng(0, "weights"), dtype=images.dtype)
    return (weights * images).mean()


def gradients(generator: DiffusionGenerator, latents: Tensor) -> dict[str, Tensor]:
    """Of `weighted_mean` in the latents ("") and in every weight."""
    latents, named = latents.clone().requires_grad_(True), dict(generator.named_parameters())
    generator.requires_grad_(True)
    loss = weighted_mean(generator(latents))
    found = torch.autograd.grad(loss, [latents, *named.values()])
    generator.requires_grad_(False)
    return dict(zip(["", *named], found, strict=True))


# --- images --------------------------------------------------------------------------------------


def test_ten_steps_equal_the_recorded_trajectory():
    toy = recorded("dpm10.npz")
    generator = DiffusionGenerator(GaussianToy(toy["mu"], toy["s"], toy["betas"]))
    x = toy["xT"][:, None, None].expand(4, 3, 1, 8)
    expected = toy["diffusers/dpmsolver/multistep3/lof0/sigma_min/x"][:, None, None]
    torch.testing.assert_close(generator(x), expected.expand(4, 3, 1, 8), atol=5e-6, rtol=0)


def test_a_model_with_learned_variance_is_sampled_by_its_noise_alone():
    """ADM: of six output channels the first three are the noise."""
    from diffusers.models import UNet2DModel

    state = recorded("adm_unet_tiny.npz")
    state = {k.removeprefix("sd/"): v.float() for k, v in state.items() if k.startswith("sd/")}
    imported = from_guided_diffusion(state, "tiny.pt", 16)
    six = UNet2DModel(**imported.config | {"sample_size": 16})
    six.load_state_dict(imported.tensors)
    three = UNet2DModel(**imported.config | {"sample_size": 16, "out_channels": 3})
    three.load_state_dict(
        {k: v[:3] if k.startswith("conv_out.") else v for k, v in imported.tensors.items()}
    )
    a, b = DiffusionGenerator(six), DiffusionGenerator(three)
    x = a.sample_latents(2, rng(0))
    with torch.no_grad():
        torch.testing.assert_close(a(x), b(x), atol=1e-4, rtol=1e-4)


def test_an_image_is_a_function_of_its_latent_alone():
    """Also when two calls are interleaved: the solver's memory belongs to one call."""
    generator = DiffusionGenerator(small_unet(), steps=4)
    x, y = generator.sample_latents(2, rng(0)), generator.sample_latents(2, rng(1))
    plain, other = generator(x), generator(y)
    calls = []

    def call_again(*_) -> None:
        calls.append(None)
        if len(calls) == 2:  # in the middle of the first image
            assert torch.equal(generator(y), other)

    hook = generator.unet.register_forward_hook(call_again)
    assert torch.equal(generator(x), plain) and len(calls) == 8
    hook.remove()
    torch.testing.assert_close(generator(x[:1]), plain[:1], atol=1e-3, rtol=1e-4)


# --- gradients -----------------------------------------------------------------------------------


def test_the_gradient_through_ten_steps_equals_finite_differences():
    """In float64, along random directions in the latents and in all weights, by differences of
    fourth order. diffusers keeps x in float32 between two steps, which limits the agreement.
    """
    generator = DiffusionGenerator(small_unet(size=8).double())
    x, h = generator.sample_latents(2, rng(0)).double(), 5e-4
    found = gradients(generator, x)
    for parts in ([""], [name for name in found if name]):
        stream = rng(0, *parts)
        ways = {k: torch.randn(found[k].shape, generator=stream, dtype=x.dtype) for k in parts}

        def moved(step: float, ways: dict[str, Tensor] = ways) -> float:
            copy = generator.copy_frozen()
            for name, parameter in copy.named_parameters():
                parameter += step * ways.get(name, 0)
            return weighted_mean(copy(x + step * ways.get("", 0))).item()

        numeric = 8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))
        exact = sum((found[k] * ways[k]).sum().item() for k in parts)
        assert numeric / (12 * h) == pytest.approx(exact, rel=1e-3)


def test_checkpointing_changes_no_gradient():
    unet = small_unet()
    plain, frugal = (DiffusionGenerator(unet, 5, checkpointing=c) for c in (False, True))
    x = plain.sample_latents(2, rng(0))
    expected, found = gradients(plain, x), gradients(frugal, x)
    assert expected[""].abs().max() > 0
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_checkpointing_keeps_fewer_tensors():
    def saved_numbers(checkpointing: bool) -> int:
        generator = DiffusionGenerator(small_unet(), 4, checkpointing).requires_grad_(True)
        sizes: list[int] = []
        x = generator.sample_latents(1, rng(0))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            generator(x)
        return sum(sizes)

    assert saved_numbers(True) < 0.1 * saved_numbers(False)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_gradient_of_the_last_steps_is_the_plain_one_with_the_earlier_ones_detached(k):
    steps = 5
    generator = DiffusionGenerator(small_unet(), steps, gradient_steps=k).requires_grad_(True)
    x = generator.sample_latents(2, rng(0))
    found = torch.autograd.grad(weighted_mean(generator(x)), generator.parameters())
    scheduler, image = dpm_solver(steps), x
    for i, t in enumerate(scheduler.timesteps):
        noise = generator.unet(image, t).sample
        noise = noise if i >= steps - k else noise.detach()
        image = scheduler.step(noise, t, image).prev_sample
    expected = torch.autograd.grad(weighted_mean(image), generator.parameters())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


@pytest.mark.slow  # computes gradients of large networks
def test_the_image_does_not_depend_on_how_its_gradient_is_computed():
    unet = small_unet().requires_grad_(True)
    x = DiffusionGenerator(unet).sample_latents(2, rng(0))
    images = [
        DiffusionGenerator(unet, checkpointing=c, gradient_steps=k)(x)
        for c, k in ((False, None), (True, None), (False, 1), (True, 4))
    ]
    assert all(torch.equal(image, images[0]) for image in images)


# --- a generator like any other ------------------------------------------------------------------


def test_latents_are_standard_normal_and_there_is_no_other_noise():
    generator = DiffusionGenerator(small_unet())
    x = generator.sample_latents(100, rng(0))
    assert x.shape == (100, 3, 16, 16) and generator.resolution == 16
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert torch.equal(x, generator.sample_latents(100, rng(0)))
    assert generator.sample_noise(100, rng(0)) == []
    with torch.no_grad():
        assert torch.equal(generator(x[:1], []), generator(x[:1], None))


def test_a_copy_shares_nothing():
    generator = DiffusionGenerator(small_unet(), 3, checkpointing=True, gradient_steps=2)
    copy, x = generator.copy_frozen(), generator.sample_latents(1, rng(0))
    assert (copy.steps, copy.checkpointing, copy.gradient_steps) == (3, True, 2)
    before = generator(x)
    for parameter in copy.parameters():
        assert not parameter.requires_grad
        parameter.add_(0.1)
    assert torch.equal(generator(x), before) and not torch.allclose(copy(x), before)


def test_layers_are_the_residual_blocks_and_attentions():
    generator = DiffusionGenerator(small_unet())
    layers = [generator.layer(i) for i in range(generator.num_layers)]
    kinds = [type(layer).__name__ for layer in layers]
    # down: 1 + 1; middle: 2 and an attention; up: 2 + 2
    assert kinds.count("ResnetBlock2D") == 8 and kinds.count("Attention") == 1
    inside = {id(p) for layer in layers for p in layer.parameters()}
    names = {n for n, p in generator.unet.named_parameters() if id(p) not in inside}
    outside = {name.split(".")[0] for name in names if "samplers" not in name}
    assert outside == {"conv_in", "time_embedding", "conv_norm_out", "conv_out"}


@pytest.mark.slow  # adapts
@pytest.mark.parametrize("source", [small_generator(), DiffusionGenerator(small_unet(), 3)])
def test_the_same_methods_adapt_gans_and_diffusion_models(source):
    space = small_space()
    numbers = air.AIRConfig(0.4, 0.2, prompt_pairs=8, prompt_steps=2)
    config = AdaptationConfig(steps=5, batch=2, learning_rate=1e-3)
    for objective in (nada.NADA(space, "human", "dog"), air.AIR(space, "human", "dog", numbers)):
        result = adapt(source, space, objective, full(), config, regularizers=[InDomainAngle(1.0)])
        losses = [entry["direction"] for entry in result.log if "direction" in entry]
        assert len(losses) == 5
        adapted = result.apply(source)
        latents = source.sample_latents(2, rng(0))
        with torch.no_grad():
            assert not torch.equal(adapted(latents), source(latents))


@pytest.mark.parametrize("module", [adaptation, step, nada, air])
def test_no_method_asks_which_generator_it_holds(module):
    text = inspect.getsource(module)
    for word in ("StyleGAN2", "DiffusionGenerator", "isinstance(source", "generators.stylegan"):
        assert word not in text.split('"""', 2)[2], f"{module.__name__} knows {word}"


# --- what is refused -----------------------------------------------------------------------------


def test_what_a_diffusion_model_cannot_do_is_refused():
    generator = DiffusionGenerator(small_unet())
    with pytest.raises(AirlibError, match="no truncation"):
        generator.sample_latents(1, rng(0), truncation=0.7)
    with pytest.raises(AirlibError, match="no noise maps"):
        generator(torch.zeros(1, 3, 16, 16), "const")


def test_layers_can_be_trained_but_not_selected_by_w():
    generator, space = DiffusionGenerator(small_unet(), 2), small_space()
    every = adaptive_layers(generator.num_layers, space, "dog")
    copy = generator.copy_frozen()
    trainable = every.attach(copy)
    every.before_step(copy, trainable, rng(0))
    assert all(parameter.requires_grad for parameter in trainable.values())
    few = adaptive_layers(3, space, "dog")
    with pytest.raises(AirlibError, match=r"does not have; train all layers \(k >= 9\)"):
        few.before_step(copy, trainable, rng(0))


@pytest.mark.parametrize(("steps", "k"), [(10, 11), (10, 0), (0, None), (10, -1)])
def test_impossible_numbers_of_steps_are_refused(steps, k):
    with pytest.raises(AirlibError, match="choose steps"):
        DiffusionGenerator(small_unet(), steps, gradient_steps=k)


def test_other_networks_are_refused():
    with pytest.raises(AirlibError, match="3 input and 4 output channels"):
        DiffusionGenerator(small_unet(outputs=4))
    with pytest.raises(AirlibError, match="restrict it"):
        unet = small_unet()
        unet.class_embedding = nn.Identity()
        DiffusionGenerator(unet)
