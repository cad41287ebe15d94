"""The UNet of guided-diffusion and P2 against recordings of the original code.

`adm_unet_tiny.npz` holds weights and outputs of a 16 px network with heads of 16 channels.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from airlib.checkpoints.guided_diffusion import (
    P2_CONFIG,
    from_guided_diffusion,
    read_guided_diffusion,
)
from airlib.errors import AirlibError

GOLDEN = Path(__file__).parents[1] / "golden"
State = dict[str, torch.Tensor]
HEAD = 16


@pytest.fixture(scope="module")
def recorded() -> State:
    with np.load(GOLDEN / "adm_unet_tiny.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}


@pytest.fixture(scope="module")
def state(recorded) -> State:
    return {k.removeprefix("sd/"): v.float() for k, v in recorded.items() if k.startswith("sd/")}


@pytest.fixture(scope="module")
def unet(state) -> nn.Module:
    from diffusers.models import UNet2DModel

    imported = from_guided_diffusion(state, "tiny.pt", HEAD)
    unet = UNet2DModel(**imported.config)
    unet.load_state_dict(imported.tensors)
    return unet.requires_grad_(False).eval()


# --- the same network ----------------------------------------------------------------------------


@pytest.mark.parametrize(("time", "output"), [("t", "out"), ("t_float", "out_float_t")])
def test_outputs_equal_guided_diffusion(unet, recorded, time, output):
    actual = unet(recorded["x"], recorded[time]).sample
    torch.testing.assert_close(actual, recorded[output], atol=1e-5, rtol=0)


def test_gradient_of_the_input_equals_guided_diffusion(unet, recorded):
    x = recorded["x"].clone().requires_grad_(True)
    unet(x, recorded["t"]).sample[:, :3].square().mean().backward()
    expected = recorded["grad_x_mean_eps_sq"]
    torch.testing.assert_close(x.grad, expected, atol=1e-8, rtol=0)
    assert expected.abs().max() > 1e-4  # so the line above compares something


def test_every_number_of_the_file_is_used(unet, state):
    """No tensor is left out: the two hold the same numbers in another order."""
    theirs = torch.cat([tensor.flatten() for tensor in state.values()]).sort().values
    ours = torch.cat([tensor.flatten() for tensor in unet.state_dict().values()]).sort().values
    assert torch.equal(theirs, ours)


def test_a_file_in_half_precision_is_read_as_float32(state, unet, tmp_path):
    """The recorded weights are exact in half precision."""
    torch.save({key: tensor.half() for key, tensor in state.items()}, tmp_path / "half.pt")
    imported = read_guided_diffusion(tmp_path / "half.pt", HEAD)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(imported.tensors[name], tensor)


# --- the published size --------------------------------------------------------------------------


class Original:
    """Names and shapes that guided-diffusion gives a network, as its constructor adds blocks."""

    def __init__(self, width: int, multipliers: list[int], attention: set[int], blocks: int = 1):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.embedding = 4 * width
        self.linear("time_embed.0", width, self.embedding)
        self.linear("time_embed.2", self.embedding, self.embedding)
        self.convolution("input_blocks.0.0", 3, width)
        channels, skips, n, last = width, [width], 0, len(multipliers) - 1
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                n += 1
                self.residual(f"input_blocks.{n}.0", channels, channels := multiplier * width)
                if level in attention:
                    self.attention(f"input_blocks.{n}.1", channels)
                skips.append(channels)
            if level < last:
                n += 1
                self.residual(f"input_blocks.{n}.0", channels, channels)
                skips.append(channels)
        for i, block in enumerate((self.residual, self.attention, self.residual)):
            block(f"middle_block.{i}", channels, *([channels] if i != 1 else []))
        n = -1
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for j in range(blocks + 1):
                n += 1
                inputs = channels + skips.pop()
                self.residual(f"output_blocks.{n}.0", inputs, channels := multiplier * width)
                if level in attention:
                    self.attention(f"output_blocks.{n}.1", channels)
                if level and j == blocks:
                    child = 2 if level in attention else 1
                    self.residual(f"output_blocks.{n}.{child}", channels, channels)
        self.norm("out.0", channels)
        self.convolution("out.2", channels, 6)

    def add(self, name: str, *weight: int) -> None:
        self.shapes |= {f"{name}.weight": weight, f"{name}.bias": weight[:1]}

    def norm(self, name: str, channels: int) -> None:
        self.add(name, channels)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self.add(name, outputs, inputs)

    def convolution(self, name: str, inputs: int, outputs: int, size: int = 3) -> None:
        self.add(name, outputs, inputs, size, size)

    def residual(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.in_layers.0", inputs)
        self.convolution(f"{name}.in_layers.2", inputs, outputs)
        self.linear(f"{name}.emb_layers.1", self.embedding, 2 * outputs)
        self.norm(f"{name}.out_layers.0", outputs)
        self.convolution(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            self.convolution(f"{name}.skip_connection", inputs, outputs, size=1)

    def attention(self, name: str, channels: int) -> None:
        self.norm(f"{name}.norm", channels)
        self.add(f"{name}.qkv", 3 * channels, channels, 1)
        self.add(f"{name}.proj_out", channels, channels, 1)

    def state(self) -> State:
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}


def test_the_writer_of_names_writes_the_recorded_ones(state):
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert Original(32, [1, 1, 2], {1}).shapes == shapes


def test_published_p2_models_are_recognised():
    state = Original(128, [1, 1, 2, 2, 4, 4], {4}).state()
    assert len(state) == 362
    assert sum(tensor.numel() for tensor in state.values()) == 93_563_910
    imported = from_guided_diffusion(state, "ffhq_p2.pt")
    path = GOLDEN / "adm_p2_ffhq256_diffusers_config.json"
    assert imported.config == json.loads(path.read_text(encoding="utf-8")) == P2_CONFIG
    assert len(imported.tensors) == 362 + 2 * 2 * 4  # one qkv becomes three, in four attentions
    assert "heads of 64 channels and the older order of qkv rows assumed" in imported.source


@pytest.mark.parametrize(
    ("multipliers", "attention", "blocks"),
    [([1, 2], set(), 2), ([1, 1, 2], {0, 1}, 2), ([1, 2, 4], {2}, 3), ([2, 4], {0}, 1)],
)
def test_other_depths_are_read_or_refused_never_misread(multipliers, attention, blocks):
    from diffusers.models import UNet2DModel

    state = Original(64, multipliers, attention, blocks).state()
    if multipliers[0] != 1:
        with pytest.raises(AirlibError, match="stem of 64 channels, first level of 128"):
            from_guided_diffusion(state, "wide.pt")
        return
    imported = from_guided_diffusion(state, "deep.pt")
    with torch.device("meta"):
        expected = UNet2DModel(**imported.config).state_dict()
    shapes = {name: tensor.shape for name, tensor in imported.tensors.items()}
    assert shapes == {name: tensor.shape for name, tensor in expected.items()}


# --- what is refused -----------------------------------------------------------------------------


def renamed(state: State, old: str, new: str) -> State:
    return {key.replace(old, new): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"label_emb.weight": torch.zeros(10, 128)}, "not know: label_emb.weight"),
        (
            lambda s: {k: v for k, v in s.items() if k != "out.0.bias"},
            "lacks .* conv_norm_out.bias",
        ),
        (lambda s: renamed(s, "middle_block.1.qkv", "middle_block.1.q"), "middle_block.1.q.bias"),
        (lambda s: {k: v for k, v in s.items() if "output" not in k}, "cannot|not a UNet"),
        (lambda s: s | {"middle_block.1.qkv.bias": torch.zeros(7)}, r"qkv.bias .* shape \[7\]"),
        (lambda s: s | {"time_embed.0.weight": None}, "holds a NoneType as time_embed.0.weight"),
    ],
)
def test_another_architecture_is_refused_by_name(state, change, message):
    with pytest.raises(AirlibError, match=f"other.pt .*({message})"):
        from_guided_diffusion(change(state), "other.pt", HEAD)


def test_heads_that_do_not_fit_are_refused(state):
    with pytest.raises(AirlibError, match="32 channels in heads of 64"):
        from_guided_diffusion(state, "tiny.pt")
