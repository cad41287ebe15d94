"""CLIP states of fine-tuners and hubs: the tensors that OpenAI's archive would give, or a refusal.

The network is the one of `clip_text_prompt.npz`, whose features OpenAI's code recorded.
"""

import json
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import load_file, save_file
from small_networks import small_generator

from airlib.checkpoints.importing import describe, identify, import_file, load_imported, read
from airlib.checkpoints.rosinality import to_rosinality
from airlib.cli.commands import main
from airlib.errors import AirlibError

GOLDEN = Path(__file__).parents[1] / "golden"
CLIP_FILE = GOLDEN / "clip_air_tiny.safetensors"
CONFIG = json.loads((GOLDEN / "air-tiny-quickgelu.json").read_text(encoding="utf-8"))
LEAVES = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
TENSORS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "logit_scale": "logit_scale",
}
NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(CLIP_FILE).items()}


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same network under the names of transformers' CLIPModel, with its two buffers."""
    theirs = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if name in TENSORS:
            theirs[TENSORS[name]] = tensor
        elif module in NORMS:
            theirs[f"{NORMS[module]}.{leaf}"] = tensor
        elif name in ("text_projection", "visual.proj"):
            projection = "text" if name == "text_projection" else "visual"
            theirs[f"{projection}_projection.weight"] = tensor.T.contiguous()
        else:
            tower, _, inner = name.partition("transformer.resblocks.")
            number, _, inner = inner.partition(".")
            start = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
            module, _, leaf = inner.rpartition(".")
            if module in LEAVES:
                theirs[f"{start}{LEAVES[module]}.{leaf}"] = tensor
            else:  # attn.in_proj_weight, attn.in_proj_bias
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    theirs[f"{start}self_attn.{part}_proj.{leaf[8:]}"] = rows.clone()
    for tower, count in (("text", 77), ("vision", 50)):
        theirs[f"{tower}_model.embeddings.position_ids"] = torch.arange(count)[None]
    return theirs


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> OrderedDict:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def custom_text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same network as open_clip's other class has it: all of the text tower below `text.`"""
    network = CustomTextCLIP(**CONFIG)
    return {
        name: state[name if name in state else name.removeprefix("text.")]
        for name in network.state_dict()
    }


def training(state: dict, **entries: object) -> dict:
    return {"epoch": 3, "state_dict": prefixed(state, "module."), "optimizer": {}} | entries


WRAPPINGS = {
    "as it is": lambda s: s,
    "half precision": lambda s: {k: v.half() for k, v in s.items()},
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled and wrapped": lambda s: prefixed(s, "model.module._orig_mod."),
    "OpenAI's three integers": lambda s: s | {"input_resolution": 224, "vocab_size": 256},
    "an entry": lambda s: {"epoch": 1, "model_state_dict": s, "loss": 0.5},
    "OpenCLIP training": lambda s: training(s, name="2024-model_ViT-B-32-quickgelu-lr_1e-05"),
    "OpenCLIP CustomTextCLIP": custom_text,
    "logit scale of one entry": lambda s: s | {"logit_scale": s["logit_scale"].reshape(1)},
    "transformers": as_transformers,
    "transformers below a prefix": lambda s: prefixed(as_transformers(s), "clip."),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_tensors_of_the_archive(state, tmp_path, wrapping):
    torch.save(WRAPPINGS[wrapping](dict(state)), tmp_path / "clip.pt")
    assert identify(tmp_path / "clip.pt").startswith("CLIP state")
    imported = read(tmp_path / "clip.pt")
    assert imported.config == CONFIG
    assert imported.tensors.keys() == state.keys()
    for name, tensor in imported.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name])  # half precision on disk, so exact in it too


@pytest.mark.parametrize("names", ["OpenAI", "transformers"])
def test_a_safetensors_file_becomes_the_network_that_openai_recorded(state, tmp_path, names):
    path = tmp_path / "model.safetensors"
    theirs = as_transformers(state) if names == "transformers" else state
    save_file({k: v.half() for k, v in theirs.items()}, path, {"format": "pt"})
    imported = import_file(path)
    assert describe(imported)["source"].startswith(names if names == "transformers" else "CLIP")
    network = load_imported(imported)
    with np.load(GOLDEN / "clip_text_prompt.npz", allow_pickle=False) as file:
        names = ("image_norm_input", "image_features", "tokens", "text_features")
        recorded = {name: torch.from_numpy(file[name]) for name in names}
    images = network.encode_image(recorded["image_norm_input"])
    torch.testing.assert_close(images, recorded["image_features"], atol=1e-5, rtol=0)
    texts = network.encode_text(recorded["tokens"])
    torch.testing.assert_close(texts, recorded["text_features"], atol=1e-5, rtol=0)
    with pytest.raises(AirlibError, match="safetensors file of airlib already"):
        import_file(imported)


def test_tied_tensors_come_apart(state, tmp_path):
    name = "transformer.resblocks.{}.ln_1.weight"
    torch.save(state | {name.format(1): state[name.format(0)]}, tmp_path / "tied.pt")
    network = load_imported(import_file(tmp_path / "tied.pt"))
    for layer in (0, 1):
        assert torch.equal(network.get_parameter(name.format(layer)), state[name.format(0)])


def test_one_storage_cannot_be_a_whole_network(state, tmp_path):
    """A storage of 65,536 numbers that stands for 871,553."""
    storage = torch.zeros(max(tensor.numel() for tensor in state.values()))
    shared = {k: storage[: v.numel()].reshape(v.shape) for k, v in state.items()}
    torch.save(shared, tmp_path / "shared.pt")
    with pytest.raises(AirlibError, match="shared.pt is refused: it unpacks to far more data"):
        import_file(tmp_path / "shared.pt")


def test_a_thousand_layers_are_refused_at_once(state, tmp_path):
    layer = {k.partition(".0.")[2]: v[:0] for k, v in state.items() if ".resblocks.0." in k}
    layers = {f"transformer.resblocks.{i}.{k}": v for i in range(2, 1000) for k, v in layer.items()}
    torch.save(state | layers, tmp_path / "deep.pt")
    started = time.monotonic()
    with pytest.raises(AirlibError, match="deep.pt is refused: .* sets layers to 1000, not"):
        import_file(tmp_path / "deep.pt")
    assert time.monotonic() - started < 10


# --- what no shape tells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "quick", "said"),
    [
        (lambda s: s, True, "the file does not say"),
        (as_transformers, True, "QuickGELU, its default"),
        (training, False, "GELU, its default"),
        (lambda s: training(s, name="model_ViT-B-32"), False, "GELU, its default"),
        (lambda s: training(s, name="model_ViT-B-32-QuickGELU"), True, "by the name of the run"),
    ],
)
def test_the_activation_is_that_of_the_code_and_said(state, tmp_path, content, quick, said):
    torch.save(content(state), tmp_path / "clip.pt")
    imported = read(tmp_path / "clip.pt")
    assert imported.config["quick_gelu"] is quick and said in imported.source


def test_the_activation_can_be_told(state, tmp_path, capsys):
    path = tmp_path / "clip.pt"
    torch.save(state, path)
    assert main(["import", str(path), "--activation", "gelu"]) == 0
    assert "source: CLIP state (gelu, as told)" in capsys.readouterr().out
    assert describe(tmp_path / "clip.pt.safetensors")["config"] == CONFIG | {"quick_gelu": False}
    with pytest.raises(AirlibError, match="unknown activation 'relu'; choose quick_gelu or gelu"):
        import_file(path, tmp_path / "other", activation="relu")
    torch.save(to_rosinality(small_generator()), path)
    with pytest.raises(AirlibError, match="clip.pt is no CLIP"):
        import_file(path, tmp_path / "other", activation="gelu")
    assert not (tmp_path / "other").exists()


def test_the_heads_and_the_mlp_of_a_large_tower_are_openclips(tmp_path):
    """ViT-bigG cut to one layer: 16 heads of 104, and an MLP of 4.9231 widths."""
    vision = {"image_size": 14, "layers": 1, "width": 1664, "head_width": 104}
    text = {"context_length": 4, "vocab_size": 8, "width": 128, "heads": 2, "layers": 1}
    vision |= {"mlp_ratio": 4.9231, "patch_size": 14}
    network = CLIP(64, vision, text).requires_grad_(False).eval()
    torch.save(training(network.state_dict()), tmp_path / "large.pt")
    loaded = load_imported(import_file(tmp_path / "large.pt"))
    images = torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode_image(images), network.encode_image(images))


# --- what is refused -----------------------------------------------------------------------------


def without(state: dict, word: str) -> dict:
    return {name: tensor for name, tensor in state.items() if word not in name}


REFUSED = {
    "a text tower": (lambda s: without(as_transformers(s), "vis"), "text tower of a CLIP alone"),
    "an image tower": (lambda s: without(as_transformers(s), "text"), "image tower of a CLIP"),
    "visual alone": (
        lambda s: {name: tensor for name, tensor in s.items() if name.startswith("visual.")},
        "image tower of a CLIP alone",
    ),
    "a classifier": (lambda s: s | {"head.weight": torch.ones(2, 2)}, "know|have: head.weight"),
    "beside a prefix": (
        lambda s: prefixed(s, "module.") | {"head.bias": torch.ones(2)},
        "head.bias",
    ),
    "a missing key": (
        lambda s: without(as_transformers(s), "vision_model.encoder.layers.1.self_attn.k_proj"),
        r"layers\.1\.self_attn\.q_proj",
    ),
    "a missing layer": (lambda s: without(s, "visual.ln_post"), "lacks .*visual.ln_post"),
    "no words": (lambda s: without(s, "token_embedding"), "no whole CLIP: 'token_embedding"),
    "two states": (lambda s: prefixed(s, "module.") | s, "with and without 'module.'"),
    "two names": (lambda s: custom_text(s) | {"ln_final.bias": torch.ones(128)}, "twice"),
    "a number": (lambda s: s | {"visual.proj": 3}, "holds a int as visual.proj"),
    "another shape": (lambda s: s | {"visual.conv1.weight": torch.ones(3)}, "shapes that no CLIP"),
    "no multiple of 64": (
        lambda s: s | {"ln_final.weight": torch.ones(96)},
        "a width of 96, no multiple of 64",
    ),
    "another tensor": (lambda s: s | {"visual.proj": torch.ones(128, 7)}, r"\[128, 7\] instead"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_clip_is_refused_by_name(state, tmp_path, case):
    content, message = REFUSED[case]
    torch.save(content(dict(state)), tmp_path / "clip.pt")
    with pytest.raises(AirlibError, match=rf"clip\.pt .*{message}") as caught:
        import_file(tmp_path / "clip.pt")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.pt"]


def test_a_safetensors_file_of_another_network_is_refused(tmp_path):
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "vgg.safetensors")
    with pytest.raises(AirlibError, match=r"safetensors file of another network \(conv.weight\)"):
        import_file(tmp_path / "vgg.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(CLIP_FILE.read_bytes()[:5000])
    with pytest.raises(AirlibError, match="cut.safetensors is damaged"):
        import_file(cut)
