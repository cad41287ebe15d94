"""What a file's configuration may say: nothing that makes us look for anything else."""

import dataclasses
import inspect
import socket
import time
from pathlib import Path

import pytest
import torch
from diffusers.models import UNet2DModel
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from small_networks import SMALL

from airlib.checkpoints.configs import ALLOWED, checked
from airlib.checkpoints.guided_diffusion import P2_CONFIG
from airlib.checkpoints.importing import load_imported
from airlib.checkpoints.networks import build, filled
from airlib.errors import AirlibError
from airlib.files import save_tensors

TEXT = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8, "head_width": 64}
CONFIGS = {
    "stylegan2": dict(SMALL),
    "unet": P2_CONFIG,
    "clip": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "e4e": {"n_styles": 4, "input_channels": 3, "pyramid": True, "width": 16},
}


def fields(part: type) -> set[str]:
    return {field.name for field in dataclasses.fields(part)}


def changed(config: dict, path: str, value: object) -> dict:
    """A copy in which the entry at a dotted path has another value."""
    first, _, rest = path.partition(".")
    return config | {first: changed(config[first], rest, value) if rest else value}


def write(path: Path, kind: str, config: object, tensors: dict | None = None) -> Path:
    header = {"kind": kind, "source": "elsewhere", "config": config, "sha256": "0"}
    return save_tensors(path, tensors or {"logit_scale": torch.zeros(())}, header)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_the_importers_write_is_allowed_as_it_is(kind):
    assert checked(kind, CONFIGS[kind]) is CONFIGS[kind]
    build(kind, CONFIGS[kind])


def test_only_numbers_of_the_architecture_are_allowed():
    """Every other argument of the libraries' classes is refused, with those yet to come."""
    arguments = set(inspect.signature(UNet2DModel).parameters) - ALLOWED["unet"].keys()
    refused = [("unet", name) for name in arguments]
    arguments = set(inspect.signature(CLIP).parameters) - ALLOWED["clip"].keys()
    refused += [("clip", name) for name in arguments]
    for part, known in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        refused += [("clip", f"{part}.{n}") for n in fields(known) - ALLOWED["clip"][part].keys()]
    assert {"clip", "text_cfg.hf_model_name"} <= {name for pair in refused for name in pair}
    for kind, path in refused:
        with pytest.raises(AirlibError, match=f"sets '{path.split('.')[-1]}', which a weight file"):
            checked(kind, changed(CONFIGS[kind], path, None))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_cfg", "hf_model_name"),
        ("text_cfg", "hf_tokenizer_name"),
        ("vision_cfg", "timm_model_name"),
    ],
)
def test_a_file_that_names_a_model_of_a_hub_connects_to_nothing(tmp_path, monkeypatch, part, name):
    def connect(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    config = changed(CONFIGS["clip"], f"{part}.{name}", "somebody/model")
    path = write(tmp_path / "hub.safetensors", "clip", config)
    with pytest.raises(AirlibError, match=f"hub.safetensors is refused: .*{name}") as caught:
        load_imported(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("stylegan2", "resolution", 2**30),
        ("stylegan2", "z_dim", 16.0),
        ("stylegan2", "mapping_layers", True),
        ("stylegan2", "mapping_lr_multiplier", float("nan")),
        ("stylegan2", "conv_clamp", "256"),
        ("unet", "block_out_channels", [8] * 80),
        ("unet", "block_out_channels", 128),
        ("unet", "down_block_types", ["os.system"]),
        ("unet", "act_fn", "gelu"),
        ("clip", "vision_cfg", None),
        ("clip", "vision_cfg.layers", 1000),
        ("clip", "vision_cfg.layers", [1, 1, 1]),
        ("clip", "text_cfg.vocab_size", 10**12),
        ("clip", "text_cfg.context_length", 10**6),
        ("clip", "quick_gelu", 1),
        ("e4e", "n_styles", -1),
    ],
)
def test_a_value_of_another_type_or_range_is_one_clear_line(kind, path, value):
    key = path.split(".")[-1]
    with pytest.raises(AirlibError, match=f"{key}.*from its publisher") as caught:
        checked(kind, changed(CONFIGS[kind], path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, 3, [], "vit", {1: 2}, {"a\n\x1b[2Jb": 0}])
def test_a_configuration_that_is_no_table_of_known_keys_is_refused(tmp_path, config):
    path = write(tmp_path / "odd.safetensors", "clip", config)
    with pytest.raises(AirlibError, match="odd.safetensors is refused") as caught:
        load_imported(path)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kind", [None, ["clip"], "gpt", {}])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(AirlibError, match="no network of kind"):
        checked(kind, {})


def test_numbers_that_do_not_go_together_are_refused():
    for kind, path, value in (
        ("clip", "text_cfg.heads", 3),  # 64 is no multiple of it
        ("clip", "vision_cfg.head_width", 128),  # no head at all
        ("unet", "norm_num_groups", 7),
        ("unet", "up_block_types", ["UpBlock2D"]),
    ):
        with pytest.raises(AirlibError, match=f"of its {kind} describes no network"):
            build(kind, changed(CONFIGS[kind], path, value))


@pytest.mark.parametrize(
    ("kind", "largest"),
    [
        ("stylegan2", {"resolution": 4096, "channel_base": 2**20, "channel_max": 8192}),
        ("clip", {"embed_dim": 8192}),
    ],
)
def test_the_largest_network_of_a_header_costs_what_the_file_holds(tmp_path, kind, largest):
    config = CONFIGS[kind] | largest
    if kind == "clip":
        config = changed(changed(config, "text_cfg.layers", 128), "text_cfg.width", 8192)
    started = time.monotonic()
    path = write(tmp_path / "huge.safetensors", kind, config)
    with pytest.raises(AirlibError, match="huge.safetensors is damaged: its tensors do not fit"):
        load_imported(path)
    assert time.monotonic() - started < 10


def test_a_filled_network_has_the_tensors_of_the_file():
    tensors = {
        name: torch.randn(tensor.shape)
        for name, tensor in build("clip", CONFIGS["clip"]).state_dict().items()
    }
    network = filled("clip", CONFIGS["clip"], tensors, "x.safetensors")
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    expected = CLIP(**CONFIGS["clip"]).requires_grad_(False).eval()
    expected.load_state_dict(tensors)
    tokens = torch.randint(1, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.encode_text(tokens), expected.encode_text(tokens))
    with pytest.raises(AirlibError, match="x.safetensors is damaged"):
        filled("clip", CONFIGS["clip"], {}, "x.safetensors")
