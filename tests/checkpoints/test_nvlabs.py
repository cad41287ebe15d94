"""NVIDIA's pickles become our StyleGAN2: the recorded images of their network, from every layout.

The recording holds weights and images; `nvlabs_pickles` writes the weights as NVIDIA would.
"""

import math
import pickle
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from nvlabs_pickles import generator, nvidia_modules, pickled, pickled_tensorflow
from pickle_assembly import call, program, text
from pickle_assembly import name as named
from small_networks import small_generator
from torch import nn

from airlib.checkpoints.nvlabs import from_nvlabs_state, read_nvlabs
from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = StyleGAN2Config(
    resolution=32, z_dim=64, w_dim=64, channel_base=1024, channel_max=64, conv_clamp=256
)
RECORDED = asdict(CONFIG)
LAYOUTS = {
    "ada": lambda state, config, **o: pickled(state, config, "ada", **o),
    "stylegan3": lambda state, config, **o: pickled(state, config, "stylegan3", **o),
    "TensorFlow": pickled_tensorflow,
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "nv_sg2ada_32.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
    return {key.removeprefix("out/"): torch.from_numpy(a).float() for key, a in arrays.items()}


@pytest.fixture(scope="module")
def recorded_state(recorded) -> dict[str, torch.Tensor]:
    return {k.removeprefix("sd/"): value for k, value in recorded.items() if k.startswith("sd/")}


def network(imported) -> StyleGAN2:
    loaded = StyleGAN2(StyleGAN2Config(**imported.config))
    loaded.load_state_dict(imported.tensors)
    return loaded.requires_grad_(False).eval()


# --- the recorded network ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_imported_network_makes_the_recorded_images(
    layout, protocol, recorded, recorded_state, tmp_path
):
    path = tmp_path / "network.pkl"
    path.write_bytes(LAYOUTS[layout](recorded_state, RECORDED, protocol=protocol))
    imported = read_nvlabs(path)
    assert imported.kind == "stylegan2"
    assert imported.config == RECORDED
    ours = {k: v for k, v in recorded_state.items() if not k.endswith("resample_filter")}
    assert imported.tensors.keys() == ours.keys()
    assert all(torch.equal(imported.tensors[name], value) for name, value in ours.items())
    filters = 0 if layout == "TensorFlow" else len(recorded_state) - len(ours)
    assert len(imported.ignored) == filters
    loaded = network(imported)
    for latents, noise, images in (
        (recorded["ws"], "const", "img_const"),
        (loaded.map(recorded["z"], 0.7), "const", "img_psi0.7_const"),
    ):
        torch.testing.assert_close(loaded(latents, noise), recorded[images], atol=5e-5, rtol=0)


def test_an_import_survives_the_round_trip_through_our_files(recorded_state, tmp_path):
    (tmp_path / "network.pkl").write_bytes(pickled(recorded_state, RECORDED))
    imported = read_nvlabs(tmp_path / "network.pkl")
    save_tensors(tmp_path / "network.safetensors", imported.tensors, imported.config)
    tensors, config = load_tensors(tmp_path / "network.safetensors")
    assert config == imported.config
    assert all(torch.equal(tensors[name], value) for name, value in imported.tensors.items())


@pytest.mark.parametrize("clamp", [None, 1.5, 256])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_clamp_is_the_one_of_the_layers(layout, clamp, tmp_path):
    """Its default differs between the two repositories, so a missing argument says nothing."""
    source = small_generator()
    config = source.config_dict() | {"conv_clamp": clamp}
    (tmp_path / "file").write_bytes(LAYOUTS[layout](source.state_dict(), config))
    assert read_nvlabs(tmp_path / "file").config["conv_clamp"] == clamp


def test_arguments_shape_the_network(tmp_path):
    """Every argument of the architecture arrives, in numbers that are nobody's default."""
    source = small_generator(z_dim=12, w_dim=20, channel_base=192, channel_max=24, mapping_layers=3)
    for layout, write in LAYOUTS.items():
        (tmp_path / "file").write_bytes(write(source.state_dict(), source.config_dict()))
        assert read_nvlabs(tmp_path / "file").config == source.config_dict(), layout


def test_learning_rate_of_the_mapping(tmp_path):
    source = small_generator()
    arguments = {"num_layers": 2, "lr_multiplier": 0.5}
    written = {
        "ada": pickled(source.state_dict(), source.config_dict(), mapping_kwargs=arguments),
        "tf": pickled_tensorflow(source.state_dict(), source.config_dict(), mapping_lrmul=0.5),
    }
    for content in written.values():
        (tmp_path / "file").write_bytes(content)
        assert read_nvlabs(tmp_path / "file").config["mapping_lr_multiplier"] == 0.5


# --- conditional networks, and what a file need not have -----------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conditional_network_is_imported_for_one_class(layout, tmp_path):
    source = small_generator(c_dim=5)
    (tmp_path / "file").write_bytes(LAYOUTS[layout](source.state_dict(), source.config_dict()))
    imported = read_nvlabs(tmp_path / "file", class_index=3)
    assert "class 3 of 0 to 4" in imported.source and imported.config["c_dim"] == 0
    z = torch.randn(4, source.z_dim, generator=torch.Generator().manual_seed(2))
    expected = source(source.map(z, c=torch.eye(5)[[3] * 4]), "const")
    loaded = network(imported)
    torch.testing.assert_close(loaded(loaded.map(z), "const"), expected, atol=2e-5, rtol=0)
    other = network(read_nvlabs(tmp_path / "file", class_index=2))
    assert (other(other.map(z), "const") - expected).abs().mean() > 0.01


@pytest.mark.parametrize("c_dim", [0, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_mean_w_it_is_computed(layout, c_dim, tmp_path):
    """As of files trained with w_avg_beta=None."""
    source = small_generator(c_dim=c_dim)
    state = {k: v for k, v in source.state_dict().items() if k != "mapping.w_avg"}
    (tmp_path / "file").write_bytes(LAYOUTS[layout](state, source.config_dict()))
    chosen = 1 if c_dim else None
    imported = read_nvlabs(tmp_path / "file", chosen)
    assert c_dim or "mean of 10000 mapped latents" in imported.source
    z = torch.randn(50_000, source.z_dim, generator=torch.Generator().manual_seed(5))
    w = network(imported).map(z)[:, 0]
    error = (w.std(dim=0) / (4096 if c_dim else 10_000) ** 0.5).norm()
    error += (w.std(dim=0) / len(z) ** 0.5).norm()
    assert (w.mean(dim=0) - imported.tensors["mapping.w_avg"]).norm() < 3 * error


@pytest.mark.parametrize("wrap", [lambda s: {"G_ema": s}, lambda s: {"G": s, "iter": 5}, dict])
def test_a_state_dict_in_nvidias_names_is_the_same_network(wrap):
    for c_dim, chosen in ((0, None), (4, 2)):
        source = small_generator(c_dim=c_dim, z_dim=12, channel_base=192, channel_max=24)
        imported = from_nvlabs_state(wrap(source.state_dict()), "file.pt", chosen)
        assert "no conv_clamp assumed" in imported.source
        expected = source.restrict(torch.eye(4)[2]) if c_dim else source
        assert imported.config == expected.config_dict()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(imported.tensors[name], tensor), name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mapping.fc1.weight", None, "mapping.fc"),
        ("mapping.fc0.weight", torch.zeros(16), "its weights are none"),
        ("mapping.embed.weight", torch.zeros(16, 2), "holds no StyleGAN2: .* of 0 to"),
        ("synthesis.b4.conv1.weight", "text", "its weights are none"),
        ("synthesis.b64.conv1.weight", torch.zeros(16, 16, 3, 3), "not have: .*b64"),
        ("synthesis.b8.torgb.bias", None, "lacks .*b8.torgb.bias"),
        ("surprise", torch.zeros(2), "does not know: surprise"),
    ],
)
def test_a_state_dict_of_another_architecture_is_refused(name, value, message):
    state = dict(small_generator().state_dict()) | {name: value}
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    with pytest.raises(AirlibError, match=f"file.pt .*{message}"):
        from_nvlabs_state({"G_ema": state}, "file.pt")


def test_a_state_dict_with_another_filter_is_refused(recorded_state):
    assert any(name.endswith("resample_filter") for name in recorded_state)
    from_nvlabs_state({"G_ema": recorded_state}, "file.pt")
    name = next(name for name in recorded_state if name.endswith("resample_filter"))
    changed = recorded_state | {name: torch.ones(4, 4) / 16}
    with pytest.raises(AirlibError, match=f"file.pt uses another low-pass filter .*{name}"):
        from_nvlabs_state({"G_ema": changed}, "file.pt")


@pytest.mark.parametrize("form", [lambda a: a[()], float, np.asarray, np.atleast_1d])
def test_a_number_of_tensorflow_is_read_in_every_form(form, tmp_path):
    """NVIDIA's own files hold numpy scalars; converters write arrays."""
    source = small_generator()
    content = pickled_tensorflow(source.state_dict(), source.config_dict(), number=form)
    (tmp_path / "file").write_bytes(content)
    tensors = read_nvlabs(tmp_path / "file").tensors
    assert all(torch.equal(tensors[name], value) for name, value in source.state_dict().items())


def test_a_generator_alone_is_read_like_one_in_its_snapshot(tmp_path):
    source = small_generator()
    with nvidia_modules():
        tree = generator(source.state_dict(), source.config_dict(), "ada")
        contents = [pickle.dumps(tree, 4), pickle.dumps({"G_ema": source.state_dict()}, 4)]
    single = pickled_tensorflow(source.state_dict(), source.config_dict(), alone=True)
    for content in (*contents, single):
        (tmp_path / "file").write_bytes(content)
        tensors = read_nvlabs(tmp_path / "file").tensors
        assert all(torch.equal(tensors[name], value) for name, value in source.state_dict().items())


# --- modules of other packages -------------------------------------------------------------------


class Grown(nn.Module):
    """A discriminator as forks have it, with attributes of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        convolution = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
        self.main = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True))
        self.backbone = torchvision.models.resnet18(weights=None).layer1
        self.channels, self.sizes = [4, 8], {"first": (3, 4), "act": torch.nn.functional.relu}
        self.device, self.size, self.dtype = torch.device("cpu"), torch.Size([2]), torch.float32
        self.names = Names(a=1)
        self.items = Items([1, 2])


class Names(dict):
    """A dictionary of another package."""


class Items(list):
    """A list of another package."""


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_discriminator_of_other_modules_is_passed_over(protocol, tmp_path):
    source = small_generator()
    with torch.random.fork_rng():
        content = pickled(source.state_dict(), source.config_dict(), protocol=protocol, D=Grown())
    assert b"torch.nn.modules.conv" in content and b"torchvision" in content
    (tmp_path / "file").write_bytes(content)
    tensors = read_nvlabs(tmp_path / "file").tensors
    assert all(torch.equal(tensors[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    "attack",
    [
        call("os.system", text("true")),
        call("builtins.getattr", text("x"), text("y")),
        call("torch.hub.load", text("x")),
        call("numpy.load", text("x")),
        call("torch.nn.Linear", text("x")),  # only an object without arguments is inert in Python
        call("timm.create_model", text("x")),
        call("pip.main", text("x")),
        named("timm.models", "Net") + b"(" + text("x") + b"t\x81",
    ],
)
def test_a_call_in_a_discriminator_is_refused(attack, tmp_path):
    content = program(b"}" + text("D") + attack + b"s")
    refused(tmp_path / "file", content, "is refused: it (asks for|calls) '")


@pytest.mark.parametrize("names", [[""], ["x"], [str(i) for i in range(3000)]])
def test_a_module_that_holds_itself_ends(names, tmp_path):
    children = b"}(" + b"".join(text(name) + b"h\x01" for name in names) + b"u"
    module = named("nets", "Module") + b")\x81q\x01}" + text("_modules") + children + b"sb"
    content = program(b"}" + text("G_ema") + module + b"s")
    refused(tmp_path / "file", content, "an object that contains itself")


# --- what is refused -----------------------------------------------------------------------------


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(AirlibError, match=message) as caught:
        read_nvlabs(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conditional_network_is_refused(layout, tmp_path):
    source = small_generator(c_dim=5)
    state = {k: v for k, v in source.state_dict().items() if "embed" not in k}
    content = LAYOUTS[layout](state, source.config_dict())
    refused(tmp_path / "file", content, "conditional network .5 classes.; choose .* --class, .* 4")
    for index in (-1, 5):
        with pytest.raises(AirlibError, match="conditional network .5 classes."):
            read_nvlabs(tmp_path / "file", index)


def test_a_class_of_an_unconditional_network_is_refused(tmp_path):
    source = small_generator()
    (tmp_path / "file").write_bytes(pickled(source.state_dict(), source.config_dict()))
    with pytest.raises(AirlibError, match="unconditional network; leave out --class"):
        read_nvlabs(tmp_path / "file", 0)


def test_classes_that_are_normalised_with_z_are_refused(tmp_path):
    """The first StyleGAN2 code has a LabelConcat."""
    source = small_generator(c_dim=5)
    content = pickled_tensorflow(source.state_dict(), source.config_dict())
    renamed = content.replace(b"LabelEmbed/bias", b"LabelConcat/wgt")
    refused(tmp_path / "file", renamed, "first StyleGAN2 code")


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("ada", {"img_channels": 1}, "another img_channels than 3"),
        ("stylegan3", {"architecture": "orig"}, "another architecture than skip"),
        ("stylegan3", {"use_noise": False}, "another use_noise than True"),
        ("stylegan3", {"resample_filter": [1, 2, 1]}, "another resample_filter"),
        ("stylegan3", {"mapping_kwargs": {"activation": "relu"}}, "another activation than lrelu"),
        ("stylegan3", {"mapping_kwargs": {"num_layers": 10**9}}, "no valid num_layers"),
        ("stylegan3", {"mapping_kwargs": {"num_layers": 3}}, "lacks tensors.*fc2"),
        ("stylegan3", {"mapping_kwargs": {"num_layers": 1}}, "does not have.*fc1"),
        ("stylegan3", {"mapping_kwargs": None}, "how its network was built"),
        ("stylegan3", {"mapping_kwargs": {"lr_multiplier": -1.0}}, "no valid lr_multiplier"),
        ("stylegan3", {"mapping_kwargs": {"lr_multiplier": math.nan}}, "no valid lr_multiplier"),
        ("ada", {"img_resolution": 32}, "lacks tensors.*b32"),
        ("ada", {"img_resolution": 8}, "does not have.*b16"),
        ("ada", {"img_resolution": 24}, "power of two"),
        ("ada", {"img_resolution": 1 << 70}, "no valid img_resolution"),
        ("ada", {"img_resolution": "16"}, "no valid img_resolution"),
        ("ada", {"z_dim": 0}, "impossible network"),
        ("ada", {"w_dim": 17}, "other shapes"),
        ("stylegan3", {"channel_max": 8}, "other shapes"),
        ("TensorFlow", {"architecture": "resnet"}, "another architecture than skip"),
        ("TensorFlow", {"nonlinearity": "relu"}, "another nonlinearity"),
        ("TensorFlow", {"resolution": 32}, "lacks tensors"),
        ("TensorFlow", {"version": 3}, "older version"),
    ],
)
def test_another_architecture_is_refused(layout, changes, message, tmp_path):
    source = small_generator()
    content = LAYOUTS[layout](source.state_dict(), source.config_dict(), **changes)
    refused(tmp_path / "file", content, message)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    source = small_generator()
    state, config = source.state_dict(), source.config_dict()
    for layout, write in LAYOUTS.items():
        less = {k: v for k, v in state.items() if k != "synthesis.b8.conv0.affine.bias"}
        refused(tmp_path / "file", write(less, config), r"lacks.*b8\.conv0\.affine\.bias")
        more = state | {"synthesis.b8.conv1.surprise": torch.ones(3)}
        refused(tmp_path / layout, write(more, config), "surprise")


def test_a_stylegan3_network_is_refused(tmp_path):
    source = small_generator()
    state = source.state_dict()
    state = {re.sub(r"synthesis\.b\d+\.", "synthesis.L0_", name): v for name, v in state.items()}
    refused(tmp_path / "file", pickled(state, source.config_dict()), "StyleGAN3, perhaps")


def test_the_orig_architecture_is_refused(tmp_path):
    source = small_generator()
    content = pickled_tensorflow(source.state_dict(), source.config_dict())
    renamed = content.replace(b"16x16/ToRGB/", b"ToRGB_lod10/")
    refused(tmp_path / "file", renamed, '"orig" architecture')
