"""StyleGAN2 against recordings of NVIDIA's network, at a small size and at the three real ones.

`golden/README` of the recordings: `nv_sg2ada_32.npz` holds weights and outputs of a 32 px network,
`sg2_full_seeded.npz` outputs of full-size ones whose weights follow from a seed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator

from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.generators.stylegan2_layers import ModulatedConv, upsample_image
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = {
    "ffhq1024": StyleGAN2Config(resolution=1024),
    "afhq512": StyleGAN2Config(resolution=512),
    "paper256": StyleGAN2Config(resolution=256, channel_base=16384),
}
TOLERANCE = {"atol": 5e-5, "rtol": 0}


def without_gradients(config: StyleGAN2Config) -> StyleGAN2:
    """A network without storage: its tensors are assigned, not filled twice."""
    with torch.device("meta"):
        return StyleGAN2(config).requires_grad_(False).eval()


# --- the recorded 32 px network ------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "nv_sg2ada_32.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
    return {key.removeprefix("out/"): torch.from_numpy(a).float() for key, a in arrays.items()}


def network(recorded: dict[str, torch.Tensor], clamp: float | None = 256) -> StyleGAN2:
    config = StyleGAN2Config(
        resolution=32, z_dim=64, w_dim=64, channel_base=1024, channel_max=64, conv_clamp=clamp
    )
    state = {k.removeprefix("sd/"): v for k, v in recorded.items() if k.startswith("sd/")}
    state = {k: v for k, v in state.items() if not k.endswith("resample_filter")}
    generator = without_gradients(config)
    generator.load_state_dict(state, assign=True)
    return generator.requires_grad_(False)


@pytest.fixture(scope="module")
def recorded_network(recorded) -> StyleGAN2:
    return network(recorded)


def test_mapping_and_truncation_equal_nvidia(recorded_network, recorded):
    ws = recorded_network.map(recorded["z"])
    torch.testing.assert_close(ws, recorded["ws"], **TOLERANCE)
    truncated = recorded_network.map(recorded["z"], 0.7)
    torch.testing.assert_close(truncated, recorded["ws_psi0.7"], **TOLERANCE)
    cutoff = torch.cat([truncated[:, :4], ws[:, 4:]], dim=1)
    torch.testing.assert_close(cutoff, recorded["ws_psi0.7_cutoff4"], **TOLERANCE)


@pytest.mark.parametrize(
    ("latents", "noise", "images"),
    [
        ("ws", "const", "img_const"),
        ("ws", None, "img_none"),
        ("ws_psi0.7", "const", "img_psi0.7_const"),
        ("ws_psi0.7_cutoff4", None, "img_psi0.7_cutoff4_none"),
        ("wplus", "const", "img_wplus_const"),
    ],
)
def test_images_equal_nvidia(recorded_network, recorded, latents, noise, images):
    actual = recorded_network(recorded[latents], noise)
    torch.testing.assert_close(actual, recorded[images], **TOLERANCE)


@pytest.mark.parametrize(("clamp", "images"), [(None, "noclamp"), (1.5, "clamp1.5")])
def test_clamp_equals_nvidia(recorded, clamp, images):
    actual = network(recorded, clamp)(recorded["ws"], "const")
    torch.testing.assert_close(actual, recorded[f"img_const_{images}"], **TOLERANCE)
    if clamp:  # the clamp was active, or this would compare nothing
        assert (recorded["img_const_clamp1.5"] - recorded["img_const"]).abs().max() > 0.1


def test_every_block_equals_nvidia(recorded_network, recorded):
    synthesis, outputs = recorded_network.synthesis, {}
    hooks = [
        synthesis.block(r).register_forward_hook(
            lambda _m, _i, output, r=r: outputs.update({r: output})
        )
        for r in synthesis.resolutions
    ]
    synthesis(recorded["ws"], "const")
    for hook in hooks:
        hook.remove()
    for r, (features, image) in outputs.items():
        torch.testing.assert_close(image, recorded[f"block{r}_img"], **TOLERANCE)
        assert torch.equal(image, synthesis(recorded["ws"], "const", resolution=r))
        if r < 32:
            torch.testing.assert_close(features, recorded[f"block{r}_x"], **TOLERANCE)


# --- the real sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_and_shapes_are_nvidias(name):
    expected = json.loads((GOLDEN / f"nv_{name}_shapes.json").read_text(encoding="utf-8"))
    expected = {k: v for k, v in expected.items() if not k.endswith("resample_filter")}
    state = without_gradients(CONFIGS[name]).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize(
    ("name", "parameters", "num_ws"),
    [("ffhq1024", 30_370_060, 18), ("afhq512", 30_276_583, 16), ("paper256", 24_767_458, 14)],
)
def test_parameter_counts_of_the_published_configurations(name, parameters, num_ws):
    generator = without_gradients(CONFIGS[name])
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert generator.num_ws == num_ws


def seeded_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of the recipe: one normal draw per key in sorted order, scaled by kind of key."""
    random, state = np.random.RandomState(100), {}
    for key in sorted(k for k in shapes if not k.endswith("resample_filter")):
        draw = random.standard_normal(shapes[key])
        values = torch.from_numpy(np.asarray(draw, dtype=np.float32))
        state[key] = values.mul_(seeded_scale(key))
        if key.endswith("affine.bias"):
            state[key] += 1
    return state


def seeded_scale(key: str) -> float:
    if key.startswith("mapping.fc"):
        return 100.0 if key.endswith("weight") else 20.0
    for ending, scale in (
        ("w_avg", 0.3),
        ("affine.bias", 0.2),
        ("noise_strength", 0.1),
        (".bias", 0.3),
    ):
        if key.endswith(ending):
            return scale
    return 1.0


@pytest.mark.slow  # opens networks of full size
@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_network_equals_nvidia(name):
    with np.load(GOLDEN / "sg2_full_seeded.npz", allow_pickle=False) as file:
        shapes = json.loads(str(file[f"{name}/keys"]))
        parts = ("ws0", "avgpool64", "crop32", "corner8")
        expected = {part: torch.from_numpy(file[f"{name}/{part}"]) for part in parts}
    generator = without_gradients(CONFIGS[name])
    generator.load_state_dict(seeded_state(shapes), assign=True)
    generator.requires_grad_(False)
    z = torch.from_numpy(np.random.RandomState(101).standard_normal((1, 512))).float()
    latents = generator.map(z, 0.7)
    image = generator(latents, "const")
    row, column = generator.resolution // 2, generator.resolution // 4
    actual = {
        "ws0": latents[0, 0],
        "avgpool64": F.adaptive_avg_pool2d(image, 64),
        "crop32": image[:, :, row : row + 32, column : column + 32],
        "corner8": image[:, :, :8, :8],
    }
    for part, value in expected.items():
        torch.testing.assert_close(actual[part], value, **TOLERANCE)


# --- the two rewritings --------------------------------------------------------------------------


def low_pass(x: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    """The [1, 3, 3, 1] filter with gain 4 on zero-padded [B, C, H, W], one axis after the other."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
    channels = x.shape[1]
    x = F.pad(x, (*padding, *padding))
    x = F.conv2d(x, taps.view(1, 1, 4, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, 4).repeat(channels, 1, 1, 1), groups=channels)


def test_upsampling_convolution_equals_transposed_convolution_and_filter():
    torch.manual_seed(0)
    layer = ModulatedConv(5, 7, 3, w_dim=4).double()
    x, styles = torch.randn(2, 5, 6, 6).double(), torch.randn(2, 5).double()
    scaled = x * styles[:, :, None, None]
    doubled = F.conv_transpose2d(scaled, layer.weight.transpose(0, 1), stride=2)
    expected = low_pass(doubled, padding=(1, 1))
    torch.testing.assert_close(layer.convolve(x, styles, up=True), expected)


def test_image_upsampling_equals_zero_insertion_and_filter():
    torch.manual_seed(0)
    image = torch.randn(2, 3, 5, 5).double()
    spread = torch.zeros(2, 3, 10, 10).double()
    spread[:, :, ::2, ::2] = image
    torch.testing.assert_close(upsample_image(image), low_pass(spread, padding=(2, 1)))


def test_modulating_the_input_equals_modulating_the_weights():
    torch.manual_seed(0)
    layer = ModulatedConv(5, 7, 3, w_dim=4).double()
    x, styles = torch.randn(2, 5, 6, 6).double(), torch.randn(2, 5).double()
    actual = layer.convolve(x, styles) * layer.demodulation(styles)[:, :, None, None]
    for b in range(2):
        weight = layer.weight * styles[b][None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(actual[b], F.conv2d(x[b][None], weight, padding=1)[0])


# --- promises of a generator ---------------------------------------------------------------------


def test_restricting_equals_the_conditional_network_at_that_condition():
    conditional = small_generator(c_dim=5)
    z = conditional.sample_z(64, rng(0))
    for c in (torch.eye(5)[2], torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])):
        restricted = conditional.restrict(c)
        assert restricted.config.c_dim == 0
        expected = conditional.map(z, c=c.expand(64, -1))
        torch.testing.assert_close(restricted.map(z), expected, atol=1e-5, rtol=0)
        noise = restricted.sample_noise(64, rng(1))
        images = restricted(restricted.map(z), noise)
        torch.testing.assert_close(images, conditional(expected, noise), atol=1e-5, rtol=0)
        many = restricted.map(restricted.sample_z(4096, rng(2)))[:, 0]
        standard_error = many.std(dim=0) / 64
        distance = (many.mean(dim=0) - restricted.mapping.w_avg).abs()
        assert (distance < 6 * standard_error).all()


def test_conditions_differ():
    conditional = small_generator(c_dim=5)
    z = conditional.sample_z(4, rng(0))
    first, second = (conditional.restrict(c).map(z) for c in torch.eye(5)[:2])
    assert (first - second).abs().max() > 1e-2


def test_an_image_does_not_depend_on_its_batch():
    generator = small_generator()
    latents, noise = generator.sample_latents(5, rng(0)), generator.sample_noise(5, rng(1))
    images = generator(latents, noise)
    for b in range(5):
        alone = generator(latents[b : b + 1], [m[b : b + 1] for m in noise])
        torch.testing.assert_close(alone[0], images[b], atol=1e-5, rtol=1e-5)


def test_noise_is_random_recorded_absent_or_refused():
    generator = small_generator()
    latents = generator.sample_latents(1, rng(0))
    first, again, other = (generator.sample_noise(1, rng(seed)) for seed in (1, 1, 2))
    assert [tuple(m.shape) for m in first] == [(1, 1, r, r) for r in (4, 8, 8, 16, 16)]
    assert torch.equal(generator(latents, first), generator(latents, again))
    assert not torch.equal(generator(latents, first), generator(latents, other))
    zero = [torch.zeros_like(m) for m in first]
    assert torch.equal(generator(latents, None), generator(latents, zero))
    stored = [layer.noise_const for layer in generator.synthesis.layers]
    assert torch.equal(generator(latents, "const"), generator(latents, stored))
    for wrong in (first[:-1], "random"):
        with pytest.raises(AirlibError, match="5 maps"):
            generator(latents, wrong)


@pytest.mark.parametrize("name", ["b8.conv0.weight", "b16.conv1.affine.weight", "b4.const"])
def test_gradient_of_a_pixel_equals_its_finite_difference(name):
    generator = small_generator()
    latents = generator.sample_latents(1, rng(0)).double()
    noise = [m.double() for m in generator.sample_noise(1, rng(1))]
    generator.double()
    weight = generator.synthesis.get_parameter(name).requires_grad_(True)

    def pixel() -> torch.Tensor:
        return generator(latents, noise)[0, 1, 5, 6]

    (gradient,) = torch.autograd.grad(pixel(), weight)
    index, values, size = gradient.abs().argmax(), [], 1e-6
    with torch.no_grad():
        for move in (size, -2 * size):
            weight.view(-1)[index] += move
            values.append(pixel())
    difference = (values[0] - values[1]) / (2 * size)
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(gradient.view(-1)[index], difference, rtol=1e-6, atol=0)


def test_a_frozen_copy_is_independent():
    generator = small_generator().requires_grad_(True)
    copied = generator.copy_frozen()
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in generator.parameters())
    before = {key: value.clone() for key, value in copied.state_dict().items()}
    with torch.no_grad():
        for value in generator.state_dict().values():
            value += 1
    assert all(torch.equal(value, before[key]) for key, value in copied.state_dict().items())


def test_layers_are_counted_and_ordered_as_in_nada():
    generator = small_generator()
    names = {id(module): name for name, module in generator.synthesis.named_modules()}
    listed = [names[id(generator.layer(i))] for i in range(generator.num_layers)]
    assert listed == ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]


@pytest.mark.parametrize("resolution", [4, 0, 48, -16])
def test_impossible_resolutions_are_refused(resolution):
    with pytest.raises(AirlibError, match="power of two"):
        StyleGAN2Config(resolution=resolution)
