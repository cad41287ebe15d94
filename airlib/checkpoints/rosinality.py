"""StyleGAN2 checkpoints of rosinality's code, which most adaptation methods are written for.

The network is NVIDIA's under other names. Weights differ by dimensions of size one only, kernels
are not flipped, and the low-pass filters carry the gain of 4 that upsampling needs:

    style.{i+1}.weight  <->  mapping.fc{i}.weight          input.input     <->  b4.const
    conv1, convs.{...}  <->  b4.conv1, b8.conv0, b8.conv1, b16.conv0, ...
    to_rgb1, to_rgbs.{} <->  b4.torgb, b8.torgb, ...       noises.noise_{} <->  conv*.noise_const
    latent_avg          <->  mapping.w_avg

`names` is that map; `from_rosinality` and `to_rosinality` walk it in the two directions. Files:

    training snapshot       g, d, g_ema, g_optim, d_optim, args, ada_aug_p
    converted from NVIDIA   g_ema, latent_avg, perhaps g and d
    NADA, IPL, AIR          g_ema, g_optim (NADA's g_ema is not an average, whatever its name)
    MindTheGap              g_ema, g_optim, latent_avg, style_latent
    HyperDomainNet          state_dict, model_type "original", ... (other types hold no generator)

Where latent_avg is missing, truncation needs one: we take the mean of 4096 mapped latents, as
StyleGAN-NADA does whenever it loads a file, but from a fixed seed, so that a file is imported alike
everywhere. Where it is there, it is used (NADA would draw again).
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.networks import build, shapes_of
from airlib.checkpoints.tables import Imported, Rule, ignored_names, numbers, translate
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.seeding import rng

SOURCE = "rosinality StyleGAN2 checkpoint"
IGNORED_ENTRIES = {
    "g": "generator before averaging, g_ema is used",
    "d": "discriminator",
    "g_optim|d_optim": "optimiser state",
    "args|ada_aug_p": "training options",
    "style_latent": "latent of MindTheGap's reference image",
    "model_type|patch_key|sg2_params|da_type|mapper_config": "HyperDomainNet's options",
}
IGNORED_TENSORS = {r".*\.kernel": "low-pass filter, a constant of the architecture"}
LATENT_AVERAGE_SAMPLES = 4096

_CONVOLUTION = {  # our leaf -> theirs
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}
_TORGB = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "bias": "bias",
}


def read_rosinality(path: str | Path) -> Imported:
    """The StyleGAN2 generator in a .pt file of rosinality's code; nothing in it is executed.

    Files of StyleGAN-NADA, IPL, AIR, MindTheGap and HyperDomainNet are of that kind. Raises
    AirlibError if the file is missing, damaged or unsafe, or holds another network.
    """
    return from_rosinality(read_torch(path), path)


def is_rosinality(content: Any) -> bool:
    """Whether the content of a .pt file holds a generator under rosinality's names.

    content: what `read_torch` returned.
    """
    return isinstance(_generator_state(content), dict)


def from_rosinality(content: Any, path: str | Path) -> Imported:
    """The StyleGAN2 generator in the content of a .pt file of rosinality's code.

    content: what `read_torch` returned for `path`, the file that errors name. Without latent_avg,
    the mean of 4096 mapped latents from a fixed seed stands for it. Raises AirlibError if entries
    or tensors are unknown or missing, or the channel numbers or the low-pass filter are not those
    of StyleGAN2.
    """
    state = _generator_state(content)
    if not isinstance(state, dict):
        raise AirlibError(f"{path} holds no rosinality generator (g_ema); choose another file")
    left_out = _unused_entries(content, path) if content is not state else ()
    config = _config(state, path)
    _check_filters(state, path)
    generator = build("stylegan2", asdict(config))
    shapes = shapes_of(generator)
    del shapes["mapping.w_avg"]  # comes from another entry, or is computed
    table = [_rule(theirs, ours, shapes[ours]) for ours, theirs in names(config).items()]
    tensors = translate(state, table, IGNORED_TENSORS, shapes, path=path)
    average, source = content.get("latent_avg"), SOURCE
    if average is None:
        average = _latent_average(generator, tensors)
        source += f" (no latent_avg in it: mean of {LATENT_AVERAGE_SAMPLES} mapped latents)"
    if average.numel() != config.w_dim:
        raise AirlibError(f"{path} holds a latent_avg of another size than {config.w_dim}")
    tensors["mapping.w_avg"] = average.float().reshape(config.w_dim)
    ignored = left_out + ignored_names(state, IGNORED_TENSORS)
    return Imported("stylegan2", source, tensors, generator.config_dict(), ignored)


def to_rosinality(generator: StyleGAN2) -> dict[str, Any]:
    """A generator as rosinality's code has it: what to give to `torch.save`.

    The result, {"g_ema": state, "latent_avg": [w_dim]}, loads strictly in rosinality's code and in
    its relatives (StyleGAN-NADA and others).
    """
    ours = {name: tensor.detach().cpu() for name, tensor in generator.state_dict().items()}
    state = {}
    for name, theirs in names(generator.config).items():
        state[theirs] = ours[name].reshape(_their_shape(theirs, ours[name])).clone()
    for i in range(len(generator.config.block_resolutions) - 1):
        state[f"convs.{2 * i}.conv.blur.kernel"] = _filter()
        state[f"to_rgbs.{i}.upsample.kernel"] = _filter()
    return {"g_ema": state, "latent_avg": ours["mapping.w_avg"].clone()}


def names(config: StyleGAN2Config) -> dict[str, str]:
    """Our name -> rosinality's for the tensors of a StyleGAN2; mapping.w_avg has no name there."""
    pairs = {"synthesis.b4.const": "input.input"}
    for i in range(config.mapping_layers):
        for leaf in ("weight", "bias"):
            pairs[f"mapping.fc{i}.{leaf}"] = f"style.{i + 1}.{leaf}"
    layers = ["b4.conv1"]
    layers += [f"b{r}.conv{i}" for r in config.block_resolutions[1:] for i in (0, 1)]
    for i, layer in enumerate(layers):
        theirs = "conv1" if i == 0 else f"convs.{i - 1}"
        pairs[f"synthesis.{layer}.noise_const"] = f"noises.noise_{i}"
        pairs |= {f"synthesis.{layer}.{a}": f"{theirs}.{b}" for a, b in _CONVOLUTION.items()}
    for i, r in enumerate(config.block_resolutions):
        theirs = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        pairs |= {f"synthesis.b{r}.torgb.{a}": f"{theirs}.{b}" for a, b in _TORGB.items()}
    return pairs


def _generator_state(content: Any) -> dict | None:
    """The state of the generator: an entry of `content`, or `content` itself."""
    if not isinstance(content, dict):
        return None
    for entry in ("g_ema", "state_dict"):
        if isinstance(content.get(entry), dict) and "input.input" in content[entry]:
            return content[entry]
    return content if "input.input" in content else None


def _unused_entries(content: dict, path: str | Path) -> tuple[str, ...]:
    """The entries beside the generator, each with the reason; unknown ones are an error."""
    others = content.keys() - {"g_ema", "state_dict", "latent_avg"}
    ignored = ignored_names(sorted(others), IGNORED_ENTRIES)
    known = {entry.split(":")[0] for entry in ignored}
    if unknown := sorted(others - known):
        raise AirlibError(
            f"{path} has entries that this importer does not know: {', '.join(unknown)}; "
            "save its g_ema and latent_avg alone and import that file"
        )
    return ignored


def _config(state: dict[str, Tensor], path: str | Path) -> StyleGAN2Config:
    """The architecture, from names and shapes."""
    depth = len(numbers(state, r"style\.(\d{1,4})\.weight"))
    blocks = len(numbers(state, r"to_rgbs\.(\d{1,4})\.bias"))
    try:
        z_dim, w_dim = state["style.1.weight"].shape[1], state["style.1.weight"].shape[0]
        channels = [state["conv1.conv.weight"].shape[1]]
        channels += [state[f"convs.{2 * i + 1}.conv.weight"].shape[1] for i in range(blocks)]
        resolution = 4 * 2**blocks
        config = StyleGAN2Config(
            resolution=resolution,
            z_dim=z_dim,
            w_dim=w_dim,
            channel_base=channels[-1] * resolution,
            channel_max=channels[0],
            mapping_layers=depth,
        )
    except (KeyError, IndexError, AttributeError) as error:
        raise AirlibError(
            f"{path} looks like a rosinality generator but lacks {error}; it is damaged"
        ) from error
    if [config.channels(r) for r in config.block_resolutions] != channels:
        raise AirlibError(
            f"{path} has {channels} channels from 4 px to {resolution} px, which no setting of "
            "StyleGAN2 gives; it is a modified network"
        )
    return config


def _rule(theirs: str, ours: str, shape: torch.Size) -> Rule:
    def same_but_for_ones(tensor: Tensor) -> Tensor:
        if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise ValueError(f"needs shape {list(shape)}")
        return tensor.reshape(shape)

    return re.escape(theirs), ours, same_but_for_ones


def _their_shape(theirs: str, tensor: Tensor) -> tuple[int, ...]:
    """Our tensor's shape with rosinality's dimensions of size one."""
    if theirs == "input.input" or theirs.endswith("conv.weight"):
        return (1, *tensor.shape)
    if theirs.startswith("noises."):
        return (1, 1, *tensor.shape)
    if theirs.endswith("noise.weight"):
        return (1,)
    if re.fullmatch(r"to_rgb(1|s\.\d+)\.bias", theirs):
        return (1, 3, 1, 1)
    return tensor.shape


def _filter() -> Tensor:
    """[1, 3, 3, 1] along both axes, with gain 4."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 16


def _check_filters(state: dict[str, Tensor], path: str | Path) -> None:
    for name, tensor in state.items():
        if name.endswith(".kernel") and not torch.equal(tensor.float(), _filter()):
            raise AirlibError(
                f"{path} uses another low-pass filter than [1, 3, 3, 1] ({name}), which our "
                "network does not have"
            )


@torch.no_grad()
def _latent_average(generator: StyleGAN2, tensors: dict[str, Tensor]) -> Tensor:
    """Mean w [w_dim] of 4096 latents z from a fixed seed; `generator` needs no values yet."""
    mapping = generator.mapping
    state = {name.removeprefix("mapping."): t for name, t in tensors.items() if "mapping" in name}
    state["w_avg"] = torch.zeros(generator.w_dim)
    mapping.load_state_dict(state, assign=True)
    z = torch.randn(LATENT_AVERAGE_SAMPLES, generator.z_dim, generator=rng(0, "latent_avg"))
    return mapping(z).mean(dim=0)
