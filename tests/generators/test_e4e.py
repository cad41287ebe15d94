"""Encoders of e4e and ReStyle-e4e: the network, and its published files.

No recording of the original code exists, so the network is compared with the same function written
down a second time, from the published names. The small networks have 16 channels instead of 64.
"""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.checkpoints import e4e
from airlib.checkpoints.importing import describe, identify, import_file, load_imported
from airlib.errors import AirlibError
from airlib.generators.e4e import E4e, E4eConfig
from airlib.seeding import rng

SMALL = {
    "ProgressiveBackboneEncoder": E4eConfig(n_styles=2, input_channels=6, width=16),
    "Encoder4Editing": E4eConfig(n_styles=8, input_channels=3, pyramid=True, width=16),
}
RESTYLE, PLAIN = SMALL


def small_network(kind: str) -> E4e:
    """Every tensor is random, the statistics of the normalisations included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = E4e(SMALL[kind])
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "bias", "latent_avg")):
                tensor.normal_(0, 0.2)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module", params=SMALL)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def network(kind) -> E4e:
    return small_network(kind)


@pytest.fixture(scope="module")
def restyle() -> E4e:
    return small_network(RESTYLE)


def images(network: E4e, count: int = 1, height: int = 256) -> Tensor:
    return torch.rand(count, network.config.input_channels, height, 256, generator=rng(0)) * 2 - 1


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tensors", "elements"),
    [(E4eConfig(), 565, 205_610_164), (E4eConfig(18, 3, pyramid=True), 621, 267_161_076)],
)
def test_the_published_network_has_its_published_size(config, tensors, elements):
    """The first row was counted in the original code, for ReStyle-e4e on FFHQ; the second differs
    by 2 * 26 + 4 tensors of the pyramid.
    """
    with torch.device("meta"):
        state = E4e(config).state_dict()
    assert state.pop("latent_avg").shape == (18, 512)
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == elements


def by_hand(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The codes, from the tensors of a published file; a second writing of the whole function."""

    def normalise(x: Tensor, name: str) -> Tensor:
        leaves = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in leaves))

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        y = F.conv2d(
            normalise(x, f"{name}.res_layer.0"), state[f"{name}.res_layer.1.weight"], None, 1, 1
        )
        y = F.prelu(y, state[f"{name}.res_layer.2.weight"])
        y = F.conv2d(y, state[f"{name}.res_layer.3.weight"], None, stride, 1)
        y = normalise(y, f"{name}.res_layer.4")
        gate = F.adaptive_avg_pool2d(y, 1)
        gate = F.relu(F.conv2d(gate, state[f"{name}.res_layer.5.fc1.weight"]))
        y = y * torch.sigmoid(F.conv2d(gate, state[f"{name}.res_layer.5.fc2.weight"]))
        x = x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in state:
            x = F.conv2d(x, state[f"{name}.shortcut_layer.0.weight"])
            x = normalise(x, f"{name}.shortcut_layer.1")
        return x + y

    def head(x: Tensor, name: str) -> Tensor:
        for i in range(0, 2 * (x.shape[-1].bit_length() - 1), 2):
            weight, bias = state[f"{name}.convs.{i}.weight"], state[f"{name}.convs.{i}.bias"]
            x = F.leaky_relu(F.conv2d(x, weight, bias, stride=2, padding=1), 0.01)
        weight, bias = state[f"{name}.linear.weight"], state[f"{name}.linear.bias"]
        return x[:, :, 0, 0] @ weight.T / weight.shape[1] ** 0.5 + bias

    def enlarge(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    x = normalise(F.conv2d(images, state["input_layer.0.weight"], None, 1, 1), "input_layer.1")
    x = F.prelu(x, state["input_layer.2.weight"])
    outputs = []
    for i in range(24):
        x = block(x, f"body.{i}", 2 if i in (0, 3, 7, 21) else 1)
        outputs.append(x)
    seen = [x] * sum(name.endswith("linear.weight") for name in state)
    if "latlayer1.weight" in state:
        lateral = [
            F.conv2d(outputs[i], state[f"latlayer{n}.weight"], state[f"latlayer{n}.bias"])
            for n, i in ((1, 20), (2, 6))
        ]
        seen[3:7] = [enlarge(x) + lateral[0]] * 4
        seen[7:] = [enlarge(seen[3]) + lateral[1]] * len(seen[7:])
    vectors = [head(features, f"styles.{i}") for i, features in enumerate(seen)]
    return torch.stack([vectors[0], *(vectors[0] + delta for delta in vectors[1:])], dim=1)


def test_codes_equal_those_computed_by_hand(kind):
    network = small_network(kind).double()
    inputs = images(network, 2, height=64).double()  # lower, to save time
    codes = network(inputs)
    assert codes.shape == (2, network.config.n_styles, 128)
    assert (codes[0] - codes[1]).abs().max() > 1e-3  # they depend on the image
    torch.testing.assert_close(codes, by_hand(network.state_dict(), inputs), atol=1e-10, rtol=0)


def test_the_first_head_moves_all_codes_and_another_only_its_own(kind):
    network = small_network(kind)
    inputs = images(network)
    before = network(inputs)
    network.styles[1].linear.bias.add_(1)
    network.styles[0].linear.bias.add_(10)
    moved = torch.full_like(before, 10)
    moved[:, 1] += 1
    torch.testing.assert_close(network(inputs) - before, moved, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 256, 256), (6, 1024, 1024), (6, 128, 128)])
def test_an_image_that_does_not_fit_is_refused(shape, restyle):
    with pytest.raises(
        AirlibError, match=rf"{shape[0]}, {shape[1]}.* takes 6 channels and 256 pix"
    ):
        restyle(torch.zeros(1, *shape))


# --- published files -----------------------------------------------------------------------------


def content(network: E4e, kind: str) -> dict:
    """What the training code saves; of decoder and optimiser a token."""
    state = {f"encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    average = state.pop("encoder.latent_avg")
    state |= {"decoder.input.input": torch.zeros(1), "decoder.style.1.bias": torch.zeros(1)}
    training = {"global_step": 7, "optimizer": {"state": {}}, "best_val_loss": 0.5}
    return {"state_dict": state, "latent_avg": average, "opts": {"encoder_type": kind}} | training


def test_the_imported_file_is_the_same_network(network, kind, tmp_path):
    path = tmp_path / "encode.pt"
    torch.save(content(network, kind), path)
    assert identify(path) == e4e.SOURCE
    imported = import_file(path)
    header = describe(imported)
    assert header["kind"] == "e4e" and E4eConfig(**header["config"]) == network.config
    assert header["parameters"] == sum(p.numel() for p in network.parameters())
    names = [entry.split(":")[0] for entry in header["ignored"]]
    assert names == ["best_val_loss", "decoder.*", "global_step", "optimizer", "opts"]
    loaded = load_imported(imported)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.latent_avg, network.latent_avg)
    assert torch.equal(loaded(images(network)), network(images(network)))


def test_one_mean_latent_stands_for_all_layers(network, kind):
    """As in a file that was not built from one of StyleGAN2; options may be a Namespace too."""
    single = network.latent_avg[0]
    options = Namespace(encoder_type=kind)
    changed = content(network, kind) | {"latent_avg": single, "opts": options}
    average = e4e.from_e4e(changed, "x.pt").tensors["latent_avg"]
    assert torch.equal(average, single.repeat(network.config.n_styles, 1))


def test_an_encoder_that_was_trained_without_a_mean_has_zeros(network, kind):
    saved = content(network, kind)
    del saved["latent_avg"]
    for options in ({}, {"start_from_latent_avg": True}):
        saved["opts"] = {"encoder_type": kind} | options
        with pytest.raises(AirlibError, match="x.pt lacks latent_avg"):
            e4e.from_e4e(saved, "x.pt")
    saved["opts"] = Namespace(encoder_type=kind, start_from_latent_avg=False)
    imported = e4e.from_e4e(saved, "x.pt")
    assert "trained without latent_avg" in imported.source
    expected = torch.zeros(network.config.n_styles, network.config.w_dim)
    assert torch.equal(imported.tensors["latent_avg"], expected)


def test_a_file_in_half_precision_is_read_as_float32(network, kind):
    half = content(network, kind)
    half["state_dict"] = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in half["state_dict"].items()
    }
    imported = e4e.from_e4e(half, "x.pt").tensors
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in imported.items()} == dtypes


def without(*names: str):
    def change(saved: dict) -> None:
        for name in names:
            (saved if name in saved else saved["state_dict"]).pop(name)

    return change


def adding(name: str | int, value: object, entry: str | None = "state_dict"):
    return lambda saved: (saved[entry] if entry else saved).update({name: value})


HEAD = [f"convs.{i}.{leaf}" for i in (0, 2, 4, 6) for leaf in ("weight", "bias")]
HEAD += ["linear.weight", "linear.bias"]
RESNET = {"encoder.conv1.weight": torch.zeros(64, 6, 7, 7)}
WRONG = {
    "lacks a tensor": (
        without("encoder.body.23.res_layer.5.fc2.weight"),
        r"lacks tensors of our network: body\.23\.res_layer\.5\.fc2\.weight",
    ),
    "lacks a head": (
        without(*(f"encoder.styles.1.{name}" for name in HEAD)),
        r"wrong.pt holds latent_avg in the wrong shape \[2, 128\]",
    ),
    "lacks a part of a head": (
        without("encoder.styles.1.linear.weight"),
        r"lacks tensors of our network: styles\.1\.linear\.weight",
    ),
    "has one more": (
        adding("encoder.body.24.res_layer.0.weight", torch.zeros(128)),
        r"does not have: body\.24\.res_layer\.0\.weight",
    ),
    "has another part": (
        adding("mapper.weight", torch.zeros(1)),
        r"does not know: mapper\.weight",
    ),
    "has another entry": (adding("extra", 1, None), "does not know: extra"),
    "has a number as a name": (adding(7, torch.zeros(1)), "does not know: 7"),
    "holds text": (adding("encoder.body.3.shortcut_layer.0.weight", "x"), "holds a str as enc"),
    "starts with text": (adding(e4e.INPUT_LAYER, "x"), "not as a convolution"),
    "is too narrow": (
        adding(e4e.INPUT_LAYER, torch.zeros(8, 6, 3, 3)),
        "width 8 .* multiple of 16",
    ),
    "has no mean": (without("latent_avg"), "lacks latent_avg, the mean latent"),
    "has another mean": (
        adding("latent_avg", torch.zeros(5), None),
        r"latent_avg in .* shape \[5\]",
    ),
    "is of pSp": (
        adding("encoder_type", "BackboneEncoder", "opts"),
        "'BackboneEncoder', .* not pSp",
    ),
    "does not say": (adding("opts", {}, None), "does not say in its opts which encoder_type"),
    "has no options": (without("opts"), "does not say in its opts which encoder_type"),
    "has a ResNet": (adding("state_dict", RESNET, None), "a ResNet-34 body"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name, restyle):
    change, message = WRONG[name]
    saved = content(restyle, RESTYLE)
    change(saved)
    with pytest.raises(AirlibError, match=message) as caught:
        e4e.from_e4e(saved, "wrong.pt")
    assert "wrong.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tensor_of_another_shape_is_named_and_nothing_written(restyle, tmp_path):
    saved, path = content(restyle, RESTYLE), tmp_path / "wrong.pt"
    saved["state_dict"]["encoder.body.4.res_layer.1.weight"] = torch.zeros(32, 32, 1, 1)
    torch.save(saved, path)
    message = (
        r"other shapes .*: body\.4\.res_layer\.1\.weight \[32, 32, 1, 1\] instead of .*3, 3\];"
    )
    with pytest.raises(AirlibError, match=message):
        import_file(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_the_other_variant_of_psp_is_refused():
    """With a pyramid the published names are those of pSp's own encoder."""
    saved = content(small_network(PLAIN), "GradualStyleEncoder")
    with pytest.raises(
        AirlibError, match=r"'GradualStyleEncoder', .* \(Encoder4Editing\), not pSp"
    ):
        e4e.from_e4e(saved, "psp.pt")
