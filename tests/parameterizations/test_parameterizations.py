"""What may move: exactly the named tensors, and NADA's layer selection.

`golden/hdn_domainmod_32.npz` holds images of HyperDomainNet's code, made with the generator of
`ros_sg2_32.npz`.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import small_generator, small_space

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.checkpoints.rosinality import from_rosinality
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.nada import NADA
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.stylegan2 import (
    SELECTION_BATCH,
    adaptive_layers,
    affine,
    domain_embedding,
    domain_vector,
    latent_scores,
    layers_of,
    synthesis,
)
from airlib.seeding import rng

CONVOLUTION = r"synthesis\.b\d+\.conv[01]\.(weight|bias|noise_strength|affine\.(weight|bias))"
FIRST_TO_RGB = r"synthesis\.b4\.torgb\.(weight|bias|affine\.(weight|bias))"
SPACE = small_space()


def moved(parameterization: Parameterization, steps: int = 1) -> set[str]:
    """Names of all tensors, buffers included, that differ after `steps` steps of NADA."""
    source = small_generator()
    config = AdaptationConfig(steps=steps, learning_rate=0.01)
    result = adapt(source, SPACE, NADA(SPACE, "human", "dog"), parameterization, config)
    adapted = result.apply(source).state_dict()
    return {k for k, v in source.state_dict().items() if not torch.equal(v, adapted[k])}


def named(pattern: str) -> set[str]:
    names = small_generator().state_dict()
    return {name for name in names if re.fullmatch(pattern, name)}


def test_synthesis_moves_the_constant_and_every_convolution():
    expected = named(rf"synthesis\.b4\.const|{CONVOLUTION}")
    assert len(expected) == 1 + 5 * 5
    assert moved(synthesis()) == expected


def test_affine_moves_only_the_maps_from_w_to_styles():
    expected = named(r"synthesis\.b\d+\.conv[01]\.affine\.(weight|bias)")
    assert len(expected) == 5 * 2
    assert moved(affine()) == expected


def test_adaptive_selection_moves_exactly_the_chosen_layers():
    source = small_generator()
    names = {id(module): name for name, module in source.named_modules()}
    chosen = latent_scores(source, SPACE, "dog", rng(0, "adapt", 0, "selection")).topk(2).indices
    prefixes = tuple(names[id(source.layer(i))] + "." for i in chosen.tolist())
    expected = {name for name, _ in source.named_parameters() if name.startswith(prefixes)}
    assert len(prefixes) == 2
    assert moved(adaptive_layers(2, SPACE, "dog")) == expected


def test_every_layer_chosen_is_every_convolution_and_the_first_torgb_but_not_the_constant():
    assert moved(adaptive_layers(6, SPACE, "dog")) == named(f"{CONVOLUTION}|{FIRST_TO_RGB}")
    assert moved(adaptive_layers(6, SPACE, "dog", "corrected")) == named(CONVOLUTION)


def test_layers_not_chosen_any_more_stand_still():
    """Adam's first beta is 0 in NADA, so a layer that is left out in a step does not coast."""
    source, space = small_generator(), SPACE
    parameterization = adaptive_layers(1, space, "dog")
    states, chosen = [], []

    def watch(index: int, adapted: StyleGAN2) -> None:
        states.append({k: v.clone() for k, v in adapted.state_dict().items()})
        scores = latent_scores(adapted, space, "dog", rng(0, "adapt", index, "selection"))
        chosen.append(adapted.layer(int(scores.argmax())))
        names.append({n for n, m in adapted.named_modules() if m is chosen[-1]}.pop() + ".")

    names: list[str] = []
    config = AdaptationConfig(steps=6, learning_rate=0.1)
    adapt(source, space, NADA(space, "human", "dog"), parameterization, config, on_step=watch)
    for before, after, name in zip(states, states[1:], names, strict=False):
        changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
        assert changed and all(key.startswith(name) for key in changed)
    assert len(set(names[:-1])) > 1  # or nothing was left out


# --- the domain vector and the domain embedding ---------------------------------------------------


def test_the_domain_vector_of_a_1024_pixel_generator_has_6048_numbers():
    """HyperDomainNet's count (Table 1 of the paper says 6 thousand)."""
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(resolution=1024))
    assert sum(p.numel() for p in domain_vector().attach(generator).values()) == 6048


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_domain_vector_of_ones_changes_nothing_and_one_factor_for_all_is_demodulated_away(order):
    """Demodulated away where it comes first, that is; after demodulation it is seen."""
    source, latents = small_generator(), small_generator().sample_latents(3, rng(1))
    adapted = source.copy_frozen()
    trainable = domain_vector(order).attach(adapted)
    assert torch.equal(adapted(latents), source(latents))
    for parameter in trainable.values():
        parameter.data *= 3
    gone = torch.allclose(adapted(latents), source(latents), rtol=1e-3, atol=1e-4)
    assert gone == (order == "pre")
    for parameter in trainable.values():
        parameter.data[0] = 0
    assert not torch.allclose(adapted(latents), source(latents), atol=1e-2)


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    """The generator of one recording, as `source`, with the inputs and images of both."""
    arrays = {}
    for name in ("ros_sg2_32", "hdn_domainmod_32"):
        path = Path(__file__).parents[1] / "golden" / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            arrays |= {k: torch.from_numpy(file[k]).float() for k in file.files if k != "meta"}
    state = {k.removeprefix("sd/"): v for k, v in arrays.items() if k.startswith("sd/")}
    content = {"g_ema": state, "latent_avg": arrays["latent_avg"]}
    imported = from_rosinality(content, "recorded.pt")
    source = StyleGAN2(StyleGAN2Config(**imported.config))
    source.load_state_dict(imported.tensors)
    return arrays | {"source": source.requires_grad_(False).eval()}


@pytest.mark.parametrize(
    ("offsets", "images"), [("in", "cin_mult"), ("in_batched", "cin_mult_batched")]
)
def test_domain_vectors_after_demodulation_equal_hyperdomainnets_code(recorded, offsets, images):
    """One vector for all images, and one for each image of a batch."""
    adapted = recorded["source"].copy_frozen()
    names = list(domain_vector("post").attach(adapted))
    vectors = {name: 1 + recorded[f"{offsets}/{i}"] for i, name in enumerate(names)}
    noise = [recorded[f"noise/{i}"] for i in range(len(names))]
    ws = adapted.map(recorded["z"])
    found = torch.func.functional_call(adapted, vectors, (ws, noise))
    expected = recorded[f"img/{images}"]
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)
    assert not torch.allclose(adapted(ws, noise), expected, atol=0.1)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_domain_vectors_scale_the_weights_where_the_order_says(order):
    """Against a layer whose weights [B, O, I, 3, 3] are formed and scaled as in the equations."""
    layer = small_generator().synthesis.b8.conv1
    x, w = (torch.randn(2, *shape, generator=rng(3)) for shape in ((16, 8, 8), (16,)))
    vectors = 1 + 0.3 * torch.randn(2, 16, generator=rng(4))
    weights = layer.weight * layer.affine(w)[:, None, :, None, None]
    factors = vectors[:, None, :, None, None]
    weights = weights * factors if order == "pre" else weights
    weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    weights = weights * factors if order == "post" else weights
    expected = torch.cat(
        [torch.nn.functional.conv2d(x[i : i + 1], weights[i], padding=1) for i in range(2)]
    )
    expected = torch.nn.functional.leaky_relu(expected + layer.bias[:, None, None], 0.2) * 2**0.5
    layer.add_domain(order)
    (name,) = (n for n, _ in layer.named_parameters() if n.startswith("domain"))
    found = torch.func.functional_call(layer, {name: vectors}, (x, w, None))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_unknown_order_is_refused():
    with pytest.raises(AirlibError, match='use "pre" or "post"'):
        domain_vector("after").attach(small_generator())


@pytest.mark.parametrize(("order", "name"), [("pre", ".domain"), ("post", ".domain_post")])
def test_an_adapted_domain_vector_travels_alone(tmp_path, order, name):
    source = small_generator()
    config = AdaptationConfig(steps=2, learning_rate=0.05)
    result = adapt(source, SPACE, NADA(SPACE, "human", "dog"), domain_vector(order), config)
    assert len(result.tensors) == 5 and all(key.endswith(name) for key in result.tensors)
    again = Adaptation.load(result.save(tmp_path / "domain.safetensors")).apply(source)
    latents = source.sample_latents(3, rng(1))
    assert torch.equal(again(latents), result.apply(source)(latents))
    assert not torch.equal(again(latents), source(latents))


def test_a_generator_with_its_mapping_inside_is_the_same_function_of_z():
    source = small_generator()
    z = source.sample_z(3, rng(2))
    assert torch.equal(source.with_mapping()(z), source(source.map(z)))
    with pytest.raises(AirlibError, match="without truncation"):
        source.with_mapping().sample_latents(2, rng(0), truncation=0.7)


def test_the_domain_embedding_is_the_first_bias_of_the_mapping_and_reaches_the_images():
    source = small_generator()
    config = AdaptationConfig(steps=2, learning_rate=0.5)
    result = adapt(
        source.with_mapping(), SPACE, NADA(SPACE, "human", "dog"), domain_embedding(), config
    )
    assert list(result.tensors) == ["mapping.fc0.bias"]
    z, adapted = source.sample_z(3, rng(2)), result.apply(source)
    assert torch.equal(result.apply(source.with_mapping())(z), adapted(adapted.map(z)))
    assert not torch.allclose(adapted(adapted.map(z)), source(source.map(z)), atol=1e-3)


# --- which layer an entry of w+ stands for -------------------------------------------------------

OFFICIAL_1024 = (
    "b4.conv1 b4.torgb b8.conv0 b8.conv1 b16.conv0 b16.conv1 b32.conv0 b32.conv1 b64.conv0 "
    "b64.conv1 b128.conv0 b128.conv1 b256.conv0 b256.conv1 b512.conv0 b512.conv1 b1024.conv0 "
    "b1024.conv1"
).split()
CORRECTED_1024 = (
    "b4.conv1 b8.conv0 b8.conv1 b16.conv0 b16.conv1 b32.conv0 b32.conv1 b64.conv0 b64.conv1 "
    "b128.conv0 b128.conv1 b256.conv0 b256.conv1 b512.conv0 b512.conv1 b1024.conv0 b1024.conv1"
).split()


@pytest.mark.parametrize(
    ("layer_map", "table"), [("official", OFFICIAL_1024), ("corrected", CORRECTED_1024)]
)
def test_layer_maps_at_1024_pixels(layer_map, table):
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(resolution=1024))
    assert generator.num_layers == 18
    names = {id(module): name for name, module in generator.synthesis.named_modules()}
    for i in range(18):
        expected = table[i : i + 1]  # the last entry drives a torgb only
        assert [names[id(m)] for m in layers_of(generator, [i], layer_map)] == expected


def test_corrected_map_names_the_convolution_that_an_entry_drives():
    generator = small_generator()
    latents = generator.sample_latents(1, rng(0))
    for i in range(generator.num_ws):
        heard = _layers_that_hear(generator, latents, entry=i)
        assert heard == layers_of(generator, [i], "corrected")


def _layers_that_hear(generator: StyleGAN2, latents: torch.Tensor, entry: int) -> list:
    """The convolutions whose w changes with entry `entry` of w+."""
    received: list[list[torch.Tensor]] = []
    for change in (0.0, 1.0):
        changed = latents.clone()
        changed[:, entry] += change
        seen: list[torch.Tensor] = []
        hooks = [
            layer.affine.register_forward_pre_hook(lambda _m, x, seen=seen: seen.append(x[0]))
            for layer in generator.synthesis.layers
        ]
        generator(changed)
        received.append(seen)
        for hook in hooks:
            hook.remove()
    pairs = zip(generator.synthesis.layers, *received, strict=True)
    return [layer for layer, before, after in pairs if not torch.equal(before, after)]


# --- scoring -------------------------------------------------------------------------------------


def test_scores_are_the_movement_of_w_in_one_step_of_gradient_descent():
    generator, encoder = small_generator(), SPACE.encoders[0]
    scores = latent_scores(generator, SPACE, "dog", rng(5))
    stream = rng(5)
    start = generator.sample_latents(SELECTION_BATCH, stream)
    noise = generator.sample_noise(SELECTION_BATCH, stream)
    moving = start.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([moving], lr=100.0)
    images = encoder.embed_images(generator(moving, noise))
    (1 - (images * encoder.embed_text(["dog"])).sum(dim=1)).mean().backward()
    optimizer.step()
    movement = (moving - start).abs().mean(dim=(0, 2)).detach()
    torch.testing.assert_close(scores, movement / 100, rtol=1e-3, atol=1e-9)
    assert scores.argsort().tolist() == movement.argsort().tolist()


def test_scoring_leaves_no_trace():
    generator = small_generator()
    trainable = synthesis().attach(generator)
    latent_scores(generator, SPACE, "dog", rng(0))
    flags = {name for name, p in generator.named_parameters() if p.requires_grad}
    assert flags == set(trainable)
    assert all(p.grad is None for p in generator.parameters())


@pytest.mark.parametrize(("k", "forwards"), [(6, 0), (18, 0), (5, 1)])
def test_choosing_every_layer_skips_scoring(k, forwards):
    generator = small_generator()
    parameterization = adaptive_layers(k, SPACE, "dog")
    trainable = parameterization.attach(generator)
    calls = []
    generator.register_forward_hook(lambda *_: calls.append(1))
    parameterization.before_step(generator, trainable, rng(0))
    assert len(calls) == forwards
    assert all(p.requires_grad for p in trainable.values()) == (forwards == 0)


def test_impossible_choices_are_refused():
    with pytest.raises(AirlibError, match="k >= 1"):
        adaptive_layers(0, SPACE, "dog")
    with pytest.raises(AirlibError, match="official or corrected"):
        adaptive_layers(6, SPACE, "dog", "other").attach(small_generator())
