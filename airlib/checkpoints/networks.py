"""Our networks, by the kind and configuration that an importer found: what its tensors must fit.

`build("stylegan2", {"resolution": 1024})` takes no memory; `shapes_of` lists what it has, and
`filled` gives it the tensors of a file. A configuration may say only what
`airlib.checkpoints.configs` lists, so no file makes us look for anything else. What all importers
of a StyleGAN2 need is here too: the architecture that its channels tell, a mean latent where a file
has none, and the one condition of a conditional network that is wanted.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from airlib.checkpoints.configs import AGAIN, checked
from airlib.errors import AirlibError
from airlib.seeding import rng

if TYPE_CHECKING:
    from open_clip.model import CLIP

    from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

WIDEST = 2**12  # layer of a StyleGAN2; published ones have 512 channels

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
        add_domains(network, tensors)
        network.load_state_dict(tensors, assign=True)
    except AirlibError as error:
        raise AirlibError(f"{path} is refused: {error}") from error
    except RuntimeError as error:
        raise AirlibError(f"{path} is damaged: its tensors do not fit its configuration") from error
    if kind == "clip":  # the causal mask, a buffer that is in no file
        shape = network.get_buffer("attn_mask").shape
        network.attn_mask = torch.full(shape, -torch.inf).triu(1)
    return network.requires_grad_(False).eval()


# --- StyleGAN2 -----------------------------------------------------------------------------------


def stylegan2_config(channels: list[int], path: str | Path, **others: int) -> "StyleGAN2Config":
    """The architecture of a StyleGAN2, from its channels at 4 px, 8 px, 16 px, ...

    others: the widths and depth that `StyleGAN2Config` takes. path: the file that errors name.
    Raises AirlibError if no setting gives these channels.
    """
    from airlib.generators.stylegan2 import StyleGAN2Config

    sizes = [*channels, *others.values()]
    if not 2 <= len(channels) <= 12 or min(sizes) < 1 or max(sizes) > WIDEST:
        raise AirlibError(
            f"{path} holds no StyleGAN2: {len(channels)} resolutions, and layers of {min(sizes)} "
            f"to {max(sizes)} numbers"
        )
    resolution = 2 * 2 ** len(channels)
    base, most = channels[-1] * resolution, channels[0]
    config = StyleGAN2Config(resolution, channel_base=base, channel_max=most, **others)
    if [config.channels(r) for r in config.block_resolutions] != channels:
        raise AirlibError(
            f"{path} has {channels} channels from 4 px to {resolution} px, which no setting of "
            "StyleGAN2 gives; it is a modified network"
        )
    return config


@torch.no_grad()
def mean_latent(config: "StyleGAN2Config", tensors: Mapping[str, Tensor], samples: int) -> Tensor:
    """The mean w [w_dim] of `samples` latents z from a fixed seed.

    tensors: the state of an unconditional StyleGAN2, of which the mapping network is used.
    """
    mapping = build("stylegan2", vars(config)).mapping
    state = {name.removeprefix("mapping."): t for name, t in tensors.items() if "mapping" in name}
    mapping.load_state_dict(state | {"w_avg": torch.zeros(config.w_dim)}, assign=True)
    z = torch.randn(samples, config.z_dim, generator=rng(0, "latent_avg"))
    return mapping(z).mean(dim=0)


def restricted(
    config: "StyleGAN2Config", tensors: dict[str, Tensor], index: int
) -> tuple["StyleGAN2Config", dict[str, Tensor]]:
    """(config, tensors) of the unconditional StyleGAN2 that a conditional one is for one class.

    config, tensors: of the conditional network, without mapping.w_avg where it has none. index: of
    the class, below `config.c_dim`.
    """
    conditional = build("stylegan2", vars(config))
    unknown = {"mapping.w_avg": torch.zeros(config.w_dim)}  # computed below, of this class alone
    conditional.load_state_dict(unknown | tensors, assign=True)
    condition = torch.zeros(config.c_dim)
    condition[index] = 1
    network = conditional.restrict(condition)
    return replace(config, c_dim=0), network.state_dict()


def add_domains(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the layers of a StyleGAN2 the domain vectors that `tensors` has for them.

    Another network, or one without domain vectors in `tensors`, stays as it is.
    """
    from airlib.generators.stylegan2_layers import DOMAIN_PARAMETERS, SynthesisLayer

    for name, layer in network.named_modules():
        for order, vector in DOMAIN_PARAMETERS.items():
            if isinstance(layer, SynthesisLayer) and f"{name}.{vector}" in tensors:
                layer.add_domain(order)
