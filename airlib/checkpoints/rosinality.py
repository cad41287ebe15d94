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
    JoJoGAN                 g
    HyperDomainNet          state_dict, model_type "original", ... (see `hyperdomainnet` for others)

`wrappings` finds the generator in them. Where latent_avg is missing, truncation needs one: we take
the mean of 4096 mapped latents, as StyleGAN-NADA does whenever it loads a file, but from a fixed
seed, so that a file is imported alike everywhere. Where it is there, it is used (NADA would draw
again). Fixed noise is drawn from a fixed seed too where a file has none, as the first files of
rosinality's code.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.networks import build, mean_latent, shapes_of, stylegan2_config
from airlib.checkpoints.tables import Imported, Rule, ignored_names, numbers, translate
from airlib.checkpoints.unpickling import read_torch
from airlib.checkpoints.wrappings import is_wrapped, mean_of, unwrap
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.seeding import rng

SOURCE = "rosinality StyleGAN2 checkpoint"
MARKER = "input.input"
IGNORED_TENSORS = {r".*\.kernel": "low-pass filter, a constant of the architecture"}
LATENT_AVERAGE_SAMPLES = 4096
LR_MULTIPLIER = 0.01  # of the mapping network, a constant of rosinality's code

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

    Files of StyleGAN-NADA, IPL, AIR, MindTheGap, JoJoGAN and HyperDomainNet are of that kind.
    Raises AirlibError if the file is missing, damaged or unsafe, or holds another network.
    """
    return from_rosinality(read_torch(path), path)


def is_rosinality(content: Any) -> bool:
    """Whether the content of a .pt file holds a generator under rosinality's names.

    content: what `read_torch` returned.
    """
    return is_wrapped(content, MARKER)


def from_rosinality(content: Any, path: str | Path) -> Imported:
    """The StyleGAN2 generator in the content of a .pt file of rosinality's code.

    content: what `read_torch` returned for `path`, the file that errors name. Without latent_avg,
    the mean of 4096 mapped latents stands for it, and fixed noise is drawn where there is none,
    both from a fixed seed; the result's `source` says so. Raises AirlibError if entries or tensors
    are unknown or missing, if the network is conditional, or if its channel numbers or low-pass
    filter are not those of StyleGAN2.
    """
    if not is_rosinality(content):
        raise AirlibError(f"{path} holds no rosinality generator (g_ema); choose another file")
    found = unwrap(content, MARKER, path)
    state = found.state
    config = _config(state, path)
    _check_filters(state, path)
    notes = [found.note] if found.note else []
    if not any(name.startswith("noises.") for name in state):
        notes.append("no fixed noise in it: drawn from seed 0")
        state |= _noise(config)
    shapes = shapes_of(build("stylegan2", asdict(config)))
    del shapes["mapping.w_avg"]  # has no name there, or is computed
    table = [_rule(theirs, ours, shapes[ours]) for ours, theirs in names(config).items()]
    tensors = translate(state, table, IGNORED_TENSORS, shapes, path=path)
    if found.mean is None:
        notes.append(f"no latent_avg in it: mean of {LATENT_AVERAGE_SAMPLES} mapped latents")
        tensors["mapping.w_avg"] = mean_latent(config, tensors, LATENT_AVERAGE_SAMPLES)
    else:
        tensors["mapping.w_avg"] = mean_of(found.mean, config.w_dim, path)
    source = f"{SOURCE} ({'; '.join(notes)})" if notes else SOURCE
    ignored = found.ignored + ignored_names(found.state, IGNORED_TENSORS)
    return Imported("stylegan2", source, tensors, asdict(config), ignored)


def to_rosinality(generator: StyleGAN2, without_clamp: bool = False) -> dict[str, Any]:
    """A generator as rosinality's code has it: what to give to `torch.save`.

    The result, {"g_ema": state, "latent_avg": [w_dim]}, loads strictly in rosinality's code and in
    its relatives (StyleGAN-NADA and others), if their Generator has the same channels; it makes the
    same images. What that code has no name for is folded into the weights: another learning rate of
    the mapping network, a latent direction, domain vectors before demodulation.

    without_clamp: leave out `conv_clamp`; the images stay equal unless an activation reaches it.
    Raises AirlibError for what cannot be expressed: domain vectors after demodulation, a clamp, a
    condition, a z and w of different widths, and parameters that are no part of StyleGAN2.
    """
    _check_expressible(generator, without_clamp)
    ours = _folded(generator)
    table = names(generator.config)
    if unknown := sorted(ours.keys() - table.keys() - {"mapping.w_avg"}):
        raise AirlibError(
            f"rosinality's code has nothing like {', '.join(unknown[:4])}; export a generator "
            "without it"
        )
    state = {}
    for name, theirs in table.items():
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


def _config(state: dict[str, Any], path: str | Path) -> StyleGAN2Config:
    """The architecture, from names and shapes."""
    depth = len(numbers(state, r"style\.(\d{1,4})\.weight"))
    blocks = len(numbers(state, r"to_rgbs\.(\d{1,4})\.bias"))
    try:
        z_dim, w_dim = state["style.1.weight"].shape[1], state["style.1.weight"].shape[0]
        channels = [state["conv1.conv.weight"].shape[1]]
        channels += [state[f"convs.{2 * i + 1}.conv.weight"].shape[1] for i in range(blocks)]
    except KeyError as error:
        raise AirlibError(
            f"{path} looks like a rosinality generator but lacks {error}; it is damaged"
        ) from error
    except (IndexError, AttributeError) as error:
        raise AirlibError(
            f"{path} looks like a rosinality generator, but its weights are none; it is damaged"
        ) from error
    if z_dim != w_dim:
        raise AirlibError(
            f"{path} holds a generator whose mapping takes {z_dim} numbers and gives {w_dim}, as "
            "no network of rosinality's code does: a conditional one, it seems; only unconditional "
            "ones can be imported"
        )
    return stylegan2_config(channels, path, z_dim=z_dim, w_dim=w_dim, mapping_layers=depth)


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


def _check_filters(state: dict[str, Any], path: str | Path) -> None:
    for name, tensor in state.items():
        if not name.endswith(".kernel") or not isinstance(tensor, Tensor):
            continue
        if not torch.equal(tensor.float(), _filter()):
            raise AirlibError(
                f"{path} uses another low-pass filter than [1, 3, 3, 1] ({name}), which our "
                "network does not have"
            )


def _noise(config: StyleGAN2Config) -> dict[str, Tensor]:
    """Fixed noise under rosinality's names, from a fixed seed."""
    sizes = [4] + [r for r in config.block_resolutions[1:] for _ in range(2)]
    random = rng(0, "fixed noise")
    return {
        f"noises.noise_{i}": torch.randn(1, 1, size, size, generator=random)
        for i, size in enumerate(sizes)
    }


# --- export --------------------------------------------------------------------------------------


def _check_expressible(generator: StyleGAN2, without_clamp: bool) -> None:
    config = generator.config
    after = [layer.domain_post for layer in generator.synthesis.layers]
    if any(vector is not None and (vector != 1).any() for vector in after):
        raise AirlibError(
            "rosinality's code cannot express domain vectors after demodulation (domain_post); "
            "keep the adaptation in airlib, or train one with vectors before it (domain_vector)"
        )
    if config.c_dim:
        raise AirlibError(
            "rosinality's code has no conditional generator; export what `restrict` returns for "
            "one class"
        )
    if config.z_dim != config.w_dim:
        raise AirlibError(
            f"rosinality's code has no generator whose z of {config.z_dim} numbers differs from "
            f"its w of {config.w_dim}; only one with equal widths can be exported"
        )
    if config.conv_clamp is not None and not without_clamp:
        raise AirlibError(
            f"rosinality's code cannot clamp activations (conv_clamp {config.conv_clamp}); give "
            "without_clamp=True to leave that out, if no activation reaches it"
        )


@torch.no_grad()
def _folded(generator: StyleGAN2) -> dict[str, Tensor]:
    """The state of a plain StyleGAN2 with learning rate 0.01 that makes the same images."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in generator.state_dict().items()}
    rate = generator.config.mapping_lr_multiplier / LR_MULTIPLIER
    for name in state:
        if name.startswith("mapping.fc") and rate != 1:
            state[name] *= rate
    direction = state.pop("direction", None)
    for name, index in _latent_indices(generator.config).items():
        state.pop(f"{name}.domain_post", None)  # all ones
        if (vector := state.pop(f"{name}.domain", None)) is not None:
            state[f"{name}.weight"] *= vector[:, None, None]
        if direction is not None:
            weight = state[f"{name}.affine.weight"] / generator.w_dim**0.5
            state[f"{name}.affine.bias"] += weight @ direction[index]
    return state


def _latent_indices(config: StyleGAN2Config) -> dict[str, int]:
    """The layers of the synthesis network -> which entry of w+ each sees."""
    indices = {"synthesis.b4.conv1": 0, "synthesis.b4.torgb": 1}
    for i, r in enumerate(config.block_resolutions[1:]):
        layers = ("conv0", "conv1", "torgb")
        indices |= {f"synthesis.b{r}.{layer}": 2 * i + 1 + j for j, layer in enumerate(layers)}
    return indices
