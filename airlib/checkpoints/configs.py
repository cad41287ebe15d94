"""What the configuration in a file may say: every key, its type and its range, by kind of network.

    checked("stylegan2", header["config"])      # the same configuration, or AirlibError

A weight file comes from anybody, and the classes that its configuration is for take more than
numbers: open_clip's CLIP looks up the names of further models and tokenizers on a hub, and a few
large numbers describe a network that no memory holds. So a file may say only what follows. That is
what our importers write; names of hubs, models, folders and pretrained weights are not among it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from airlib.errors import AirlibError

AGAIN = "take the file from its publisher"


class Check(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _whole(least: int, most: int) -> Check:
    def holds(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return Check(f"a whole number from {least} to {most}", holds)


def _number(least: float, most: float) -> Check:
    def holds(value: Any) -> bool:
        return type(value) in (int, float) and least <= value <= most

    return Check(f"a number from {least:g} to {most:g}", holds)


def _one_of(*values: Any) -> Check:
    def holds(value: Any) -> bool:
        return any(type(value) is type(known) and value == known for known in values)

    return Check(" or ".join(map(repr, values)), holds)


def _several(each: Check, least: int, most: int) -> Check:
    def holds(value: Any) -> bool:
        right = isinstance(value, list | tuple) and least <= len(value) <= most
        return right and all(map(each.holds, value))

    return Check(f"a list of {least} to {most} entries, each {each.words}", holds)


def _either(first: Check, second: Check) -> Check:
    return Check(f"{first.words}, or {second.words}", lambda v: first.holds(v) or second.holds(v))


FLAG, NOTHING = _one_of(False, True), _one_of(None)
WIDTH, SIDE, DEPTH = _whole(1, 8192), _whole(1, 4096), _whole(1, 128)
GROUPS = _whole(1, 1024)

Checks = Mapping[str, "Check | Checks"]
"""Key -> what its value must be; a mapping stands for a configuration inside."""

ALLOWED: dict[str, Checks] = {
    "stylegan2": {  # StyleGAN2Config
        "resolution": SIDE,
        "z_dim": WIDTH,
        "w_dim": WIDTH,
        "c_dim": _whole(0, 8192),
        "channel_base": _whole(1, 2**20),
        "channel_max": WIDTH,
        "mapping_layers": DEPTH,
        "mapping_lr_multiplier": _number(1e-6, 1e3),
        "conv_clamp": _either(_number(1e-6, 1e6), NOTHING),
    },
    "unet": {  # diffusers' UNet2DModel
        "sample_size": SIDE,
        "in_channels": WIDTH,
        "out_channels": WIDTH,
        "center_input_sample": FLAG,
        "time_embedding_type": _one_of("positional"),
        "freq_shift": _whole(0, 1),
        "flip_sin_to_cos": FLAG,
        "down_block_types": _several(
            _one_of("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"), 1, 8
        ),
        "up_block_types": _several(
            _one_of("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), 1, 8
        ),
        "block_out_channels": _several(WIDTH, 1, 8),
        "layers_per_block": _whole(1, 16),
        "downsample_type": _one_of("conv", "resnet"),
        "upsample_type": _one_of("conv", "resnet"),
        "dropout": _number(0, 1),
        "act_fn": _one_of("silu"),
        "attention_head_dim": WIDTH,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": _either(GROUPS, NOTHING),
        "norm_eps": _number(1e-12, 1),
        "resnet_time_scale_shift": _one_of("default", "scale_shift"),
        "add_attention": FLAG,
        "num_class_embeds": NOTHING,
    },
    "clip": {  # open_clip.model.CLIP
        "embed_dim": WIDTH,
        "quick_gelu": FLAG,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": _either(DEPTH, _several(DEPTH, 4, 4)),
            "width": WIDTH,
            "head_width": WIDTH,
            "patch_size": _whole(1, 256),
            "mlp_ratio": _number(0.01, 16),
        },
        "text_cfg": {
            "context_length": SIDE,
            "vocab_size": _whole(1, 10**6),
            "width": WIDTH,
            "heads": _whole(1, 512),
            "layers": DEPTH,
            "mlp_ratio": _number(0.01, 16),
        },
    },
    "e4e": {  # E4eConfig
        "n_styles": _whole(1, 64),
        "input_channels": _whole(1, 64),
        "pyramid": FLAG,
        "width": _whole(16, 1024),
    },
}


def checked(kind: str, config: Any) -> dict:
    """`config` itself, if a file may describe a network of this kind so.

    kind: "stylegan2", "unet", "clip" or "e4e". Raises AirlibError for another kind, a key that is
    not in `ALLOWED`, and a value of another type or out of its range.
    """
    if not isinstance(kind, str) or kind not in ALLOWED:
        raise AirlibError(f"no network of kind {str(kind)[:60]!r}; update airlib")
    _check(config, ALLOWED[kind], f"the configuration of its {kind}")
    return config


def _check(config: Any, allowed: Checks, where: str) -> None:
    if not isinstance(config, dict):
        raise AirlibError(f"{where} is no table of keys and values; {AGAIN}")
    for key, value in config.items():
        check = allowed.get(key) if isinstance(key, str) else None
        if check is None:
            raise AirlibError(
                f"{where} sets {str(key)[:60]!r}, which a weight file may not choose; {AGAIN}"
            )
        if not isinstance(check, Check):
            _check(value, check, f"{key} in {where}")
        elif not check.holds(value):
            raise AirlibError(
                f"{where} sets {key} to {repr(value)[:60]}, not {check.words}; {AGAIN}"
            )
