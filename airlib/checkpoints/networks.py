"""Our networks, by the kind and configuration that an importer found: what its tensors must fit.

`build("stylegan2", {"resolution": 1024})` takes no memory; `shapes_of` lists what it has, and
`filled` gives it the tensors of a file. A configuration may say only what
`airlib.checkpoints.configs` lists, so no file makes us look for anything else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from airlib.checkpoints.configs import AGAIN, checked
from airlib.errors import AirlibError

if TYPE_CHECKING:
    from open_clip.model import CLIP

    from airlib.generators.stylegan2 import StyleGAN2

IMPOSSIBLE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)  # what the classes raise for numbers that do not go together


@overload
def build(kind: Literal["stylegan2"], config: dict) -> "StyleGAN2": ...
@overload
def build(kind: str, config: dict) -> nn.Module: ...
def build(kind: str, config: dict) -> nn.Module:
    """The network of a configuration, on the meta device: names and shapes without numbers.

    kind: "stylegan2", "unet", "clip" or "e4e". config: the arguments of StyleGAN2Config, diffusers'
    UNet2DModel, open_clip's CLIP or E4eConfig. Raises AirlibError for another kind, and for a
    configuration that is not allowed or describes no network.
    """
    checked(kind, config)
    try:
        with torch.device("meta"):
            return _made(kind, config)
    except IMPOSSIBLE as error:
        raise AirlibError(
            f"the configuration of its {kind} describes no network ({type(error).__name__}: "
            f"{str(error)[:100]}); {AGAIN}"
        ) from error


def _made(kind: str, config: dict) -> nn.Module:
    if kind == "stylegan2":
        from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

        return StyleGAN2(StyleGAN2Config(**config))
    if kind == "unet":
        from diffusers.models import UNet2DModel

        return UNet2DModel(**config)
    if kind == "clip":
        from open_clip.model import CLIP

        return CLIP(**config)
    from airlib.generators.e4e import E4e, E4eConfig

    return E4e(E4eConfig(**config))


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every tensor in the `state_dict()` of a network."""
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def shapes_for(kind: str, config: dict, path: str | Path) -> dict[str, torch.Size]:
    """Name -> shape of every tensor that the network of a configuration has.

    path: the file whose shapes gave the configuration. Raises AirlibError, which names it, for one
    that `build` refuses.
    """
    try:
        return shapes_of(build(kind, config))
    except AirlibError as error:
        raise AirlibError(f"{path} is refused: {error}") from error


@overload
def filled(
    kind: Literal["stylegan2"], config: dict, tensors: Mapping[str, Tensor], path: str | Path
) -> "StyleGAN2": ...
@overload
def filled(
    kind: Literal["clip"], config: dict, tensors: Mapping[str, Tensor], path: str | Path
) -> "CLIP": ...
@overload
def filled(
    kind: str, config: dict, tensors: Mapping[str, Tensor], path: str | Path
) -> nn.Module: ...
def filled(kind: str, config: dict, tensors: Mapping[str, Tensor], path: str | Path) -> nn.Module:
    """The network of a configuration with these tensors, frozen and in evaluation mode.

    It takes no memory besides them. path: the file that they are from, for messages. Raises
    AirlibError for a configuration that `build` refuses, and for tensors that do not fit it.
    """
    try:
        network = build(kind, config)
        network.load_state_dict(tensors, assign=True)
    except AirlibError as error:
        raise AirlibError(f"{path} is refused: {error}") from error
    except RuntimeError as error:
        raise AirlibError(f"{path} is damaged: its tensors do not fit its configuration") from error
    if kind == "clip":  # the causal mask, a buffer that is in no file
        shape = network.get_buffer("attn_mask").shape
        network.attn_mask = torch.full(shape, -torch.inf).triu(1)
    return network.requires_grad_(False).eval()
