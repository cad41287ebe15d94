"""LoRA in the UNet of a diffusion generator: what it covers, what it changes, what is saved."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models import UNet2DModel
from small_networks import small_space, small_unet
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.errors import AirlibError
from airlib.generators.diffusion import DiffusionGenerator
from airlib.methods.nada import NADA
from airlib.parameterizations.lora import coverage, layers_of, lora
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCE = DiffusionGenerator(small_unet(), steps=3)
CONFIG = AdaptationConfig(steps=4, batch=2, learning_rate=0.01, checkpoint_every=1)


def adm() -> DiffusionGenerator:
    """The published network of P2 at 256 pixels, without memory."""
    config = json.loads((GOLDEN / "adm_p2_ffhq256_diffusers_config.json").read_text("utf-8"))
    with torch.device("meta"):
        return DiffusionGenerator(UNet2DModel(**config))


def adapted(directory: Path | None = None, config: AdaptationConfig = CONFIG) -> Adaptation:
    space = small_space()
    return adapt(SOURCE, space, NADA(space, "human", "dog"), lora(2), config, directory)


@torch.no_grad()
def images(generator: DiffusionGenerator) -> Tensor:
    return generator(generator.sample_latents(2, rng(0)))


# --- what it covers ------------------------------------------------------------------------------


def test_layers_of_adm():
    """Four attentions of four matrices; residual blocks: 2 convolutions each, 1x1 where channels
    change.
    """
    unet = adm().unet
    attention, convolutions = (layers_of(unet, [t]) for t in ("attention", "convolutions"))
    assert len(attention) == 4 * 4
    blocks = sum(type(m).__name__ == "ResnetBlock2D" for m in unet.modules())
    shortcuts = sum(name.endswith("conv_shortcut") for name, _ in unet.named_modules())
    assert len(convolutions) == 2 * blocks + shortcuts
    every = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert every - set(convolutions) == {"conv_in", "conv_out"}
    assert set(layers_of(unet, ("convolutions", "attention"))) == {*attention, *convolutions}


@pytest.mark.slow  # computes gradients of large networks
@pytest.mark.parametrize("rank", [1, 4])
def test_counted_numbers_are_those_of_two_factors_per_layer(rank):
    unet = adm().unet
    counts = coverage(adm(), rank)
    for targets in (["attention"], ["convolutions"]):
        weights = [unet.get_submodule(name).weight for name in layers_of(unet, targets)]
        expected = sum(rank * (len(w) + w[0].numel()) for w in weights)
        assert counts[targets[0]] == {"layers": len(weights), "numbers": expected}
    both = counts["convolutions + attention"]["numbers"]
    assert both == counts["convolutions"]["numbers"] + counts["attention"]["numbers"]
    assert 4 * both < 5e6 * rank / 4  # an adapter of a few megabytes


def test_only_adapters_are_trained():
    generator = SOURCE.copy_frozen()
    trainable = lora(2, ["attention"]).attach(generator)
    assert {n for n, p in generator.named_parameters() if p.requires_grad} == set(trainable)
    assert len(trainable) == 2 * 4
    assert all("attentions" in name for name in trainable)


# --- what it changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [["attention"], ["convolutions"]])
def test_it_starts_as_the_source_and_has_a_gradient(targets):
    generator = SOURCE.copy_frozen()
    trainable = lora(2, targets).attach(generator)
    assert torch.equal(images(generator), images(SOURCE))
    generator(generator.sample_latents(1, rng(0))).square().mean().backward()
    for name, parameter in trainable.items():
        is_first = ".lora_A." in name  # has no gradient while B is 0
        assert (parameter.grad.abs().max() == 0) == is_first, name


def test_an_adapter_is_a_matrix_of_its_rank_added_to_the_weight():
    generator = SOURCE.copy_frozen()
    trainable = lora(2).attach(generator)
    for i, parameter in enumerate(trainable.values()):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=rng(0, i))
    plain = SOURCE.copy_frozen()
    for name in layers_of(plain.unet, ("convolutions", "attention")):
        a, b = (trainable[f"unet.{name}.lora_{x}.default.weight"].detach() for x in "AB")
        weight = plain.unet.get_submodule(name).weight
        change = b.flatten(1) @ a.flatten(1)
        assert torch.linalg.matrix_rank(change) <= 2
        weight += change.view_as(weight)
    difference = (images(generator) - images(SOURCE)).abs().max()
    torch.testing.assert_close(
        images(generator), images(plain), atol=1e-4 * difference.item(), rtol=1e-4
    )


def test_the_seed_decides_the_random_half():
    drawn = [list(lora(2, seed=s).attach(SOURCE.copy_frozen()).values())[0] for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    state = torch.get_rng_state()
    lora(2).attach(SOURCE.copy_frozen())
    assert torch.equal(torch.get_rng_state(), state)


# --- what is saved -------------------------------------------------------------------------------


@pytest.mark.slow  # adapts
def test_a_saved_adaptation_holds_the_adapters_and_restores_the_same_bits(tmp_path):
    steps = []
    space = small_space()
    result = adapt(
        SOURCE, space, NADA(space, "human", "dog"), lora(2), CONFIG,
        on_step=lambda _, generator: steps.append(images(generator.copy_frozen())),
    )  # fmt: skip
    assert torch.equal(steps[0], images(SOURCE.copy_frozen()))
    assert not torch.equal(steps[-1], steps[0])
    loaded = Adaptation.load(result.save(tmp_path / "dog.safetensors"))
    assert all(".lora_" in name for name in loaded.tensors)
    assert torch.equal(images(loaded.apply(SOURCE)), steps[-1])
    copy = loaded.apply(SOURCE).copy_frozen()
    assert torch.equal(images(copy), steps[-1])


@pytest.mark.slow  # runs again and again
def test_a_resumed_adaptation_ends_with_the_same_bits(tmp_path):
    def stop(step: int, _) -> None:
        if step == 2:
            raise KeyboardInterrupt

    space, whole = small_space(), adapted()
    arguments = SOURCE, space, NADA(space, "human", "dog"), lora(2), CONFIG, tmp_path
    with pytest.raises(KeyboardInterrupt):
        adapt(*arguments, on_step=stop)
    resumed = adapted(tmp_path)
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert resumed.log == whole.log


def test_an_adapter_of_another_network_is_refused():
    result = adapted(config=AdaptationConfig(steps=1, batch=1))
    name = next(iter(result.tensors))
    other = result.tensors | {name.replace("conv1", "conv9"): result.tensors[name]}
    with pytest.raises(AirlibError, match=r"unknown tensors \(unet\..*conv9.*make it again"):
        Adaptation(other, result.config).apply(SOURCE)
    wrong = result.tensors | {name: torch.zeros(2, 3, 3, 3)}
    with pytest.raises(AirlibError, match="other shapes"):
        Adaptation(wrong, result.config).apply(SOURCE)


@pytest.mark.parametrize(
    ("rank", "targets", "message"),
    [(0, ["attention"], "rank 0"), (4, [], "unknown targets"), (4, ["bias"], "choose from conv")],
)
def test_impossible_adapters_are_refused(rank, targets, message):
    with pytest.raises(AirlibError, match=message):
        lora(rank, targets).attach(SOURCE.copy_frozen())
