"""Our networks, by the kind and configuration that an importer found: what its tensors must fit.

`build("stylegan2", {"resolution": 1024})` takes no memory; `shapes_of` lists what it has.
"""

from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import nn

from airlib.errors import AirlibError

if TYPE_CHECKING:
    from airlib.generators.stylegan2 import StyleGAN2


@overload
def build(kind: Literal["stylegan2"], config: dict) -> "StyleGAN2": ...
@overload
def build(kind: str, config: dict) -> nn.Module: ...
def build(kind: str, config: dict) -> nn.Module:
    """The network of a configuration, on the meta device: names and shapes without numbers.

    kind: "stylegan2", "unet", "clip" or "e4e". config: the arguments of StyleGAN2Config, diffusers'
    UNet2DModel, open_clip's CLIP or E4eConfig. Raises AirlibError for another kind, and what the
    class raises for an impossible configuration.
    """
    with torch.device("meta"):
        if kind == "stylegan2":
            from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

            return StyleGAN2(StyleGAN2Config(**config))
        if kind == "unet":
            from diffusers.models import UNet2DModel

            return UNet2DModel(**config)
        if kind == "clip":
            from open_clip.model import CLIP

            return CLIP(**config)
        if kind == "e4e":
            from airlib.generators.e4e import E4e, E4eConfig

            return E4e(E4eConfig(**config))
    raise AirlibError(f"no network of kind {kind!r}; update airlib")


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every tensor in the `state_dict()` of a network."""
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
