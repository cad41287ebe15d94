"""The UNet of guided-diffusion (ADM) and P2-weighting, as a diffusers `UNet2DModel`.

P2's network is ADM's, file for file; only its training loss differs. Its checkpoints are a bare
state dict. The two implementations hold the same blocks under other names:

    input_blocks.n   n counts through all levels: one convolution, then per level the residual
                     blocks (child 0, with attention as child 1) and one downsampling block
    middle_block     residual, attention, residual
    output_blocks.n  lowest level first; the last block of a level ends with an upsampling block

so the table is written by walking the levels, block by block. The one tensor that is more than
renamed is qkv: rows are ordered [head, (q, k, v), channel] and become three matrices.

What shapes cannot tell is assumed, and is the same in every published P2 model: heads of 64
channels, the older order of qkv rows, and 8 px at the lowest level (which only sets `sample_size`,
a default that nothing computes with). The result's `source` says what was assumed of attention.
Refused, as ADM's other variants need more than renaming: resampling by plain convolutions, class
labels, additive time embeddings, and a first level that is wider than the stem.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from airlib.checkpoints.networks import shapes_for
from airlib.checkpoints.tables import Imported, Rule, numbers, translate
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError

SOURCE = "guided-diffusion (ADM, P2) UNet"
HEAD_CHANNELS = 64
NORM_GROUPS = 32

_RESIDUAL = {  # their leaf -> ours
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True)
class Level:
    """One resolution of the UNet: its channels, and whether its blocks have attention."""

    channels: int
    attention: bool


def read_guided_diffusion(path: str | Path, head_channels: int = HEAD_CHANNELS) -> Imported:
    """The UNet in a guided-diffusion or P2 .pt file; nothing in it is executed.

    head_channels: channels per head of attention, which the file does not tell. Raises AirlibError
    if the file is missing, damaged or unsafe, or holds no UNet that UNet2DModel can express.
    """
    return from_guided_diffusion(read_torch(path), path, head_channels)


def is_guided_diffusion(content: Any) -> bool:
    """Whether the content of a .pt file is the bare state of a guided-diffusion or P2 UNet.

    content: what `read_torch` returned.
    """
    return isinstance(content, dict) and {"time_embed.0.weight", "out.2.weight"} <= content.keys()


def from_guided_diffusion(
    state: Mapping[str, Tensor], path: str | Path, head_channels: int = HEAD_CHANNELS
) -> Imported:
    """The UNet in the content of a guided-diffusion or P2 .pt file.

    state: what `read_torch` returned for `path`, the file that errors name. head_channels: channels
    per head of attention, which the file does not tell. Raises AirlibError if the architecture is
    not one that UNet2DModel can express.
    """
    try:
        levels, blocks = _levels(state)
        _check_kind(state, levels, head_channels)
        channels = state["input_blocks.0.0.weight"].shape[1], state["out.2.weight"].shape[0]
        config = _config(levels, blocks, head_channels, *channels)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise AirlibError(
            f"{path} is not a UNet of P2-weighting or guided-diffusion that we can express "
            f"({error}); only networks with residual up- and downsampling are read"
        ) from error
    table = [_named(theirs, ours) for theirs, ours in _ENDS.items()]
    for theirs, ours, kind in _blocks(levels, blocks):
        if kind == "residual":
            table += [_named(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _RESIDUAL.items()]
        else:
            table += _attention_rules(theirs, ours, head_channels)
    targets = shapes_for("unet", config, path)
    tensors = translate(state, table, {}, targets, path=path)
    assumed = f"heads of {head_channels} channels and the older order of qkv rows assumed"
    return Imported("unet", f"{SOURCE} ({assumed}, as shapes do not tell)", tensors, config)


def _levels(state: Mapping[str, Tensor]) -> tuple[list[Level], int]:
    """(the levels, highest resolution first; residual blocks per level)."""
    outputs = 1 + max(numbers(state, r"output_blocks\.(\d{1,4})\..*"))
    ups = numbers(state, r"output_blocks\.(\d{1,4})\.[12]\.in_layers\.0\.weight")
    per_level = min(ups) + 1  # in the output path: one more than in the input path
    blocks, count = per_level - 1, outputs // per_level
    if outputs % per_level or len(ups) != count - 1 or not blocks:
        raise ValueError(f"{outputs} output blocks with upsampling in {sorted(ups)}")
    levels = []
    for level in range(count):
        last = (blocks + 1) * level + blocks  # its last residual block before downsampling
        channels = state[f"input_blocks.{last}.0.out_layers.3.weight"].shape[0]
        levels.append(Level(channels, f"input_blocks.{last}.1.qkv.weight" in state))
    return levels, blocks


def _check_kind(state: Mapping[str, Tensor], levels: list[Level], head_channels: int) -> None:
    """Raise ValueError where the network is one that UNet2DModel cannot express."""
    stem = state["input_blocks.0.0.weight"].shape[0]
    if stem != levels[0].channels:
        raise ValueError(f"stem of {stem} channels, first level of {levels[0].channels}")
    if state["input_blocks.1.0.emb_layers.1.weight"].shape[0] != 2 * stem:
        raise ValueError("time embedding that is added instead of scaling and shifting")
    for level in levels:
        if level.channels % head_channels and (level.attention or level is levels[-1]):
            raise ValueError(f"{level.channels} channels in heads of {head_channels}")


def _config(
    levels: list[Level], blocks: int, head_channels: int, inputs: int, outputs: int
) -> dict:
    """Arguments of `UNet2DModel`."""

    def kinds(way: str) -> list[str]:
        return [f"{'Attn' if x.attention else 'Resnet'}{way}Block2D" for x in levels]

    return {
        "sample_size": 8 * 2 ** (len(levels) - 1),
        "in_channels": inputs,
        "out_channels": outputs,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": [k.replace("AttnDownsample", "AttnDown") for k in kinds("Downsample")],
        "up_block_types": [k.replace("AttnUpsample", "AttnUp") for k in kinds("Upsample")][::-1],
        "block_out_channels": [level.channels for level in levels],
        "layers_per_block": blocks,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "dropout": 0.0,
        "act_fn": "silu",
        "attention_head_dim": head_channels,
        "norm_num_groups": NORM_GROUPS,
        "attn_norm_num_groups": NORM_GROUPS,  # or the middle attention would have no norm at all
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        "add_attention": True,
        "num_class_embeds": None,
    }


_P2_CHANNELS = (128, 128, 256, 256, 512, 512)
_P2_LEVELS = [Level(c, attention=i == 4) for i, c in enumerate(_P2_CHANNELS)]  # at 16 px
P2_CONFIG = _config(_P2_LEVELS, 1, HEAD_CHANNELS, 3, 6)
"""Arguments of `UNet2DModel` for the networks that P2-weighting publishes (256 px)."""


def _blocks(levels: list[Level], blocks: int) -> Iterator[tuple[str, str, str]]:
    """(their name, our name, "residual" or "attention") of every block."""
    n = 0
    for i, level in enumerate(levels):
        for j in range(blocks):
            n += 1
            yield f"input_blocks.{n}.0", f"down_blocks.{i}.resnets.{j}", "residual"
            if level.attention:
                yield f"input_blocks.{n}.1", f"down_blocks.{i}.attentions.{j}", "attention"
        if i < len(levels) - 1:
            n += 1
            yield f"input_blocks.{n}.0", f"down_blocks.{i}.downsamplers.0", "residual"
    yield "middle_block.0", "mid_block.resnets.0", "residual"
    yield "middle_block.1", "mid_block.attentions.0", "attention"
    yield "middle_block.2", "mid_block.resnets.1", "residual"
    for i, level in enumerate(reversed(levels)):
        for j in range(blocks + 1):
            n = (blocks + 1) * i + j
            yield f"output_blocks.{n}.0", f"up_blocks.{i}.resnets.{j}", "residual"
            if level.attention:
                yield f"output_blocks.{n}.1", f"up_blocks.{i}.attentions.{j}", "attention"
        if i < len(levels) - 1:
            child = 2 if level.attention else 1
            yield f"output_blocks.{n}.{child}", f"up_blocks.{i}.upsamplers.0", "residual"


def _named(theirs: str, ours: str) -> Rule:
    return re.escape(theirs) + r"\.(weight|bias)", ours + r".\1", None


def _attention_rules(theirs: str, ours: str, head_channels: int) -> list[Rule]:
    rules = [
        _named(f"{theirs}.norm", f"{ours}.group_norm"),
        (re.escape(theirs) + r"\.proj_out\.weight", f"{ours}.to_out.0.weight", _matrix),
        (re.escape(theirs) + r"\.proj_out\.bias", f"{ours}.to_out.0.bias", None),
    ]
    for i, part in enumerate(("to_q", "to_k", "to_v")):
        split = partial(_part_of_qkv, index=i, head_channels=head_channels)
        rules.append(
            (re.escape(theirs) + r"\.qkv\.(weight|bias)", f"{ours}.{part}" + r".\1", split)
        )
    return rules


def _matrix(weight: Tensor) -> Tensor:
    """A convolution of size one over a sequence [O, I, 1] as a matrix [O, I]."""
    return weight.squeeze(2)


def _part_of_qkv(tensor: Tensor, index: int, head_channels: int) -> Tensor:
    """Rows of q, k or v: [3C, C, 1] -> [C, C], or bias [3C] -> [C]."""
    rows = tensor.reshape(-1, 3, head_channels, *tensor.shape[1:])[:, index].flatten(0, 1)
    return _matrix(rows) if rows.ndim == 3 else rows
