"""Encoders of e4e and ReStyle-e4e (.pt) into our `E4e`, whose names are theirs without "encoder.".

    state_dict      encoder.*: the network; decoder.*: the StyleGAN2 it was trained with
    latent_avg      mean latent of that generator, [512] or already repeated to [n_styles, 512];
                    absent from e4e if it was trained without (start_from_latent_avg), then zeros
    opts            training options, of which encoder_type says what the outputs mean
    other entries   state of the training

encoder_type cannot be left out: the encoders of pSp and ReStyle-pSp have the same names and shapes,
but their heads give the codes themselves, not a shared code and deltas. Read as e4e they would run
and invert every photograph wrongly. Architecture and names: the repositories encoder4editing of Tov
et al. 2021 and restyle-encoder of Alaluf et al. 2021.
"""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.networks import shapes_for
from airlib.checkpoints.tables import Imported, ignored_names, numbers, translate
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError
from airlib.generators.e4e import E4eConfig

SOURCE = "e4e or ReStyle encoder"
INPUT_LAYER = "encoder.input_layer.0.weight"
RESNET_INPUT_LAYER = "encoder.conv1.weight"
IGNORED = {
    r"decoder\..*": "the generator, which `airlib import` reads from its own file",
    "opts": "training options",
    "global_step|optimizer|best_val_loss": "state of the training",
    r"discriminator_.*": "latent discriminator, a part of the training",
}


def read_e4e(path: str | Path) -> Imported:
    """The encoder in an e4e or ReStyle-e4e .pt file; nothing in it is executed.

    Raises AirlibError if the file is missing, damaged or unsafe, is a pSp encoder, has a ResNet-34
    body, or holds other tensors than e4e has.
    """
    return from_e4e(read_torch(path), path)


def is_e4e(content: Any) -> bool:
    """Whether the content of a .pt file is a pSp, e4e or ReStyle encoder, also one not readable.

    content: what `read_torch` returned.
    """
    state = content.get("state_dict") if isinstance(content, dict) else None
    return isinstance(state, dict) and not {INPUT_LAYER, RESNET_INPUT_LAYER}.isdisjoint(state)


def from_e4e(content: Any, path: str | Path) -> Imported:
    """The e4e or ReStyle-e4e encoder in the content of a .pt file.

    content: what `read_torch` returned for `path`, the file that errors name. Raises AirlibError if
    it is a pSp encoder or has a ResNet-34 body, if it lacks a latent_avg that it was trained with,
    or if tensors or entries are unknown or missing.
    """
    if not is_e4e(content):
        raise AirlibError(f"{path} holds no e4e encoder ({INPUT_LAYER}); choose another file")
    state = {str(name): tensor for name, tensor in content["state_dict"].items()}
    _check_kind(state, content.get("opts"), path)
    config = _config(state, path)
    source = state | {str(name): content[name] for name in content if name != "state_dict"}
    shape = (config.n_styles, config.w_dim)
    label = SOURCE
    if content.get("latent_avg") is None:
        _check_trained_without_mean(content["opts"], path)
        source["latent_avg"] = torch.zeros(shape)
        label += " (trained without latent_avg: codes are the latents themselves)"
    table = [
        (r"encoder\.(.*)", r"\1", None),
        ("latent_avg", "latent_avg", lambda tensor: tensor.expand(shape)),
    ]
    targets = shapes_for("e4e", vars(config), path)
    tensors = translate(source, table, IGNORED, targets, path=path)
    entries = sorted({re.sub(r"^decoder\..*", "decoder.*", name) for name in source})
    return Imported("e4e", label, tensors, vars(config).copy(), ignored_names(entries, IGNORED))


def _check_kind(state: dict[str, Tensor], options: Any, path: str | Path) -> None:
    if RESNET_INPUT_LAYER in state:
        raise AirlibError(
            f"{path} is an encoder with a ResNet-34 body, as ReStyle has for everything but faces; "
            "airlib has the IR-SE-50 body of the encoders for faces only"
        )
    kind = _option(options, "encoder_type")
    expected = "Encoder4Editing" if _has_pyramid(state) else "ProgressiveBackboneEncoder"
    if kind is None:
        raise AirlibError(
            f"{path} does not say in its opts which encoder_type it is, and e4e and pSp look the "
            "same; choose the file as it was published"
        )
    if kind != expected:
        raise AirlibError(
            f"{path} holds an encoder of type {str(kind)[:60]!r}, which airlib does not have; it "
            f"reads e4e ({expected}), not pSp"
        )


def _check_trained_without_mean(options: Any, path: str | Path) -> None:
    if _option(options, "start_from_latent_avg") is not False:
        raise AirlibError(
            f"{path} lacks latent_avg, the mean latent that codes of this encoder are added to; "
            "choose the file as it was published"
        )


def _option(options: Any, name: str) -> Any:
    """A training option, or None where there is none of that name."""
    options = vars(options) if isinstance(options, Namespace) else options
    return options.get(name) if isinstance(options, dict) else None


def _has_pyramid(state: dict[str, Tensor]) -> bool:
    return "encoder.latlayer1.weight" in state


def _config(state: dict[str, Tensor], path: str | Path) -> E4eConfig:
    """The architecture, from names and shapes."""
    weight = state[INPUT_LAYER]
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        raise AirlibError(f"{path} holds {INPUT_LAYER}, but not as a convolution; it is damaged")
    heads = numbers(state, r"encoder\.styles\.(\d{1,4})\..*")
    width, channels = weight.shape[:2]
    try:
        return E4eConfig(len(heads), channels, _has_pyramid(state), width)
    except AirlibError as error:
        raise AirlibError(f"{path} is no e4e encoder: {error}") from error
