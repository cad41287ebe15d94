"""Parameterizations by name, and one of a third party from training to mixing."""

import pytest
import torch
from small_networks import assert_continues, small_generator, small_space, small_unet
from torch import Tensor, nn
from torch.nn.utils import parametrize

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.editing.interpolation import Blend, mix
from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors
from airlib.generators.base import Generator
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.identity import fingerprint
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.nada import NADA
from airlib.parameterizations import registry
from airlib.parameterizations.base import Parameterization, joined
from airlib.parameterizations.lora import lora
from airlib.parameterizations.registry import (
    current_name,
    parameterization_named,
    parameterization_names,
    register_parameterization,
)
from airlib.parameterizations.stylegan2 import adaptive_layers, domain_vector
from airlib.seeding import rng

GAN, SPACE = small_generator(), small_space()
UNET = DiffusionGenerator(small_unet(size=8), steps=2)
CONFIG = AdaptationConfig(steps=3, batch=2, learning_rate=0.05, checkpoint_every=1)


class Gain(nn.Module):
    """A third party's idea: one factor per output channel of a weight."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        return self.gain * weight


def gains() -> Parameterization:
    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        for resolution in adapted.synthesis.resolutions:
            layer = adapted.synthesis.block(resolution).torgb
            parametrize.register_parametrization(layer, "weight", Gain(len(layer.weight)))
        return {name: p for name, p in adapted.named_parameters() if name.endswith(".gain")}

    return Parameterization("gains", select)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))


@torch.no_grad()
def images(generator: Generator) -> Tensor:
    generator = generator.copy_frozen()
    return generator(generator.sample_latents(2, rng(0)), generator.sample_noise(2, rng(1)))


def made(source: Generator, moving: Parameterization, seed: int = 1, **config) -> Adaptation:
    """An adaptation with random changes of everything that may move, as read from a file."""
    tensors = {
        name: value.detach() + 0.1 * torch.randn(value.shape, generator=rng(seed, name))
        for name, value in moving.attach(source.copy_frozen()).items()
    }
    config = config or {"parameterization": moving.name}
    return Adaptation(tensors, {"source": fingerprint(source), **config})


# --- names ---------------------------------------------------------------------------------------

FORMS = ["layers5", "layers5_corrected", "lora4", "lora4_attention", "lora4_convolutions"]


@pytest.mark.parametrize("name", [*registry.PARAMETERIZATIONS, *FORMS, "affine + domain_vector"])
def test_a_name_makes_what_has_this_name_and_starts_as_the_source(name):
    moving = parameterization_named(name)
    assert moving.name == name and moving.module.startswith("airlib.parameterizations.")
    source = UNET if "lora" in name else GAN
    adapted = source.copy_frozen()
    trainable = moving.attach(adapted)
    assert torch.equal(images(adapted), images(source))
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == set(trainable)


def test_all_names_are_listed():
    names = parameterization_names()
    assert {*registry.PARAMETERIZATIONS, "layersK", "loraR_attention"} <= set(names)
    with pytest.raises(AirlibError, match="unknown parameterization 'all'; choose from full, syn"):
        parameterization_named("all")
    with pytest.raises(AirlibError, match="unknown parameterization 'nothing'"):
        parameterization_named("affine + nothing")


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ("adaptive_layers_5_official", "layers5"),
        ("adaptive_layers_12_corrected", "layers12_corrected"),
        ("lora_4_convolutions_attention", "lora4"),
        ("lora_4_attention", "lora4_attention"),
        ("lora_16_convolutions", "lora16_convolutions"),
        ("domain_vector", "domain_vector"),
    ],
)
def test_names_of_earlier_files_are_read_and_never_made(saved, name):
    assert current_name(saved) == name
    if saved != name:
        with pytest.raises(AirlibError, match="unknown parameterization"):
            parameterization_named(saved)


def test_a_taken_name_is_refused_and_the_same_function_is_not():
    register_parameterization("gains", gains)
    register_parameterization("gains", gains)
    for name in ("gains", "synthesis", "layers7", "lora2_attention", "a + b"):
        with pytest.raises(AirlibError, match="is taken; choose another"):
            register_parameterization(name, domain_vector)


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        (GAN, "lora4", "'lora4' is for a DiffusionGenerator and this is a StyleGAN2"),
        (UNET, "domain_vector", "'domain_vector' is for a StyleGAN2 and this is a DiffusionGen"),
        (UNET, "singular_values", "is for a StyleGAN2"),
        (GAN, "singular_values + synthesis", "cannot act together"),
        (GAN, "convolutions + singular_values", "cannot act together"),
        (GAN, "singular_values + convolutions", "cannot act together"),
        (UNET, "full + lora4", "cannot act together"),
    ],
)
def test_what_does_not_fit_is_refused(source, name, words):
    with pytest.raises(AirlibError, match=words):
        parameterization_named(name).attach(source.copy_frozen())


@pytest.mark.parametrize(
    "select",
    [
        lambda adapted: {},
        lambda adapted: {"weight": adapted.synthesis.b4.const},
        lambda adapted: {"synthesis.b4.const": nn.Parameter(torch.zeros(16, 4, 4))},
    ],
)
def test_what_names_nothing_trainable_is_refused(select):
    with pytest.raises(AirlibError, match="'mine' names nothing trainable in this StyleGAN2"):
        adapt(GAN, SPACE, NADA(SPACE, "human", "dog"), Parameterization("mine", select), CONFIG)


def test_choosing_layers_needs_a_text_and_making_them_again_does_not():
    moving, adapted = parameterization_named("layers3"), GAN.copy_frozen()
    trainable = moving.attach(adapted)
    with pytest.raises(AirlibError, match=r"layers3 chooses layers by a target text.*bind"):
        moving.before_step(adapted, trainable, rng(0))
    bound = moving.bind(SPACE, "dog")
    bound.before_step(adapted, trainable, rng(0))
    known = adaptive_layers(3, SPACE, "dog")
    chosen = {name for name, p in trainable.items() if p.requires_grad}
    known.before_step(adapted, trainable, rng(0))
    assert chosen == {name for name, p in trainable.items() if p.requires_grad}
    assert 0 < len(chosen) < len(trainable)
    result = adapt(GAN, SPACE, NADA(SPACE, "human", "dog"), bound, CONFIG)
    again = Adaptation(result.tensors, result.config)  # as from a file
    assert torch.equal(images(again.apply(GAN)), images(result.apply(GAN)))


# --- a parameterization of a third party ---------------------------------------------------------


def trained(**options) -> Adaptation:
    return adapt(GAN, SPACE, NADA(SPACE, "human", "dog"), gains(), CONFIG, **options)


def test_a_third_partys_parameterization_trains_resumes_saves_applies_and_mixes(tmp_path):
    assert_continues(trained, tmp_path / "run", last=2)
    result = trained()
    expected = images(result.apply(GAN))  # not registered, but it is still in memory
    assert not torch.allclose(expected, images(GAN), atol=1e-3)
    loaded = Adaptation.load(result.save(tmp_path / "dog.safetensors"))
    assert loaded.config == result.config and loaded.config["parameterization_module"] == __name__
    message = f"moves 'gains', of {__name__}, which is not registered here"
    for attempt in (lambda: loaded.apply(GAN), lambda: mix(GAN, [loaded], [0.5])):
        with pytest.raises(AirlibError, match=message):
            attempt()
    register_parameterization("gains", gains)
    assert torch.equal(images(loaded.apply(GAN)), expected)
    half = mix(GAN, [loaded, made(GAN, gains())], [0.5, 0.0])
    for name, value in half.tensors.items():
        torch.testing.assert_close(value, (1 + loaded.tensors[name]) / 2)
    again = Adaptation.load(half.save(tmp_path / "half.safetensors"))
    assert torch.equal(images(again.apply(GAN)), images(Blend(GAN, [loaded])([0.5])))


def test_a_third_partys_parameterization_acts_together_with_a_domain_vector():
    register_parameterization("gains", gains)
    parts = [made(GAN, gains()), made(GAN, domain_vector())]
    both = mix(GAN, parts, [1.0, 0.5])
    assert both.config["parameterization"] == "gains + domain_vector"
    by_hand = parts[0].apply(GAN)
    for name, vector in parts[1].tensors.items():
        layer = by_hand.get_submodule(name.removesuffix(".domain"))
        layer.add_domain().data.copy_(1 + 0.5 * (vector - 1))
    torch.testing.assert_close(images(both.apply(GAN)), images(by_hand), atol=1e-4, rtol=1e-4)
    again = mix(GAN, [Adaptation(both.tensors, both.config), parts[1]], [1.0, 0.5])
    assert again.config["parameterization"] == "gains + domain_vector"
    for name, vector in parts[1].tensors.items():
        torch.testing.assert_close(again.tensors[name], vector)


# --- files of earlier versions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "moving", "saved"),
    [
        (GAN, "layers4", "adaptive_layers_4_official"),
        (GAN, "layers4_corrected", "adaptive_layers_4_corrected"),
        (UNET, "lora2", "lora_2_convolutions_attention"),
        (UNET, "lora3_attention", "lora_3_attention"),
    ],
)
def test_adaptations_with_earlier_names_apply(source, moving, saved):
    now = made(source, parameterization_named(moving))
    before = Adaptation(now.tensors, now.config | {"parameterization": saved})
    assert torch.equal(images(before.apply(source)), images(now.apply(source)))


@pytest.mark.slow  # adapts
@pytest.mark.parametrize(
    ("source", "names", "moving"),
    [
        (GAN, ["domain_vector", "domain_vector_post"], "domain_vector + domain_vector_post"),
        (GAN, ["synthesis", "adaptive_layers_5_official"], "synthesis + layers5"),
        (GAN, ["synthesis", "synthesis"], "synthesis"),
        (UNET, ["lora_2_attention", "lora_3_convolutions"], "lora5"),
        (UNET, ["lora_2_attention", "lora_3_attention"], "lora5_attention"),
    ],
)
def test_mixtures_that_name_no_parameterization_apply(source, names, moving):
    """They named only those of what was mixed; mixtures may be mixed again."""
    mixture = [{"share": 0.5, "source": fingerprint(source), "parameterization": n} for n in names]
    for config in ({"mixture": mixture}, {"mixture": [{"share": 1.0, "mixture": mixture}]}):
        before = made(source, parameterization_named(moving), **config)
        assert before.parameterization.name == moving
        now = Adaptation(before.tensors, before.config | {"parameterization": moving})
        assert torch.equal(images(before.apply(source)), images(now.apply(source)))


def test_a_run_of_an_earlier_version_continues(tmp_path):
    """Its checkpoint has the old name and no module."""

    def run() -> Adaptation:
        moving = adaptive_layers(9, SPACE, "dog")
        config = AdaptationConfig(steps=2, learning_rate=0.01)
        return adapt(GAN, SPACE, NADA(SPACE, "human", "dog"), moving, config, tmp_path)

    whole = run()
    checkpoint = tmp_path / "checkpoint.safetensors"
    tensors, config = load_tensors(checkpoint)
    del config["parameterization_module"]
    config["parameterization"] = "adaptive_layers_9_official"
    save_tensors(checkpoint, tensors, config)
    again = run()
    assert again.log == whole.log and again.config == whole.config
    config["parameterization"] = "adaptive_layers_8_official"
    save_tensors(checkpoint, tensors, config)
    with pytest.raises(AirlibError, match="other settings"):
        run()


def test_an_adaptation_that_does_not_say_what_moved_is_refused():
    nameless = Adaptation(made(GAN, domain_vector()).tensors, {"source": fingerprint(GAN)})
    with pytest.raises(AirlibError, match="does not say what moved; make it again"):
        nameless.apply(GAN)


@pytest.mark.parametrize("use", [lambda a: a.apply(UNET), lambda a: mix(UNET, [a], [0.5])])
def test_tensors_must_be_exactly_those_that_move(use):
    whole = made(UNET, lora(2))
    name, value = next(iter(whole.tensors.items()))
    fewer = {key: v for key, v in whole.tensors.items() if key != name}
    other = {**whole.tensors, name: value[:1]}
    more = {**whole.tensors, "unet.conv_in.weight": value}
    for tensors, words in (
        (fewer, "lacks tensors"),
        (other, "other shapes"),
        (more, "unknown ten"),
    ):
        with pytest.raises(AirlibError, match=f"{words}.*make it again"):
            use(Adaptation(tensors, whole.config))


def test_joined_names_each_part_once():
    both = joined([parameterization_named("affine + domain_vector"), domain_vector()])
    assert both.name == "affine + domain_vector"
    assert joined([domain_vector(), domain_vector()]).name == "domain_vector"
