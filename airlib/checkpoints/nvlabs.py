"""NVIDIA's StyleGAN2 pickles -> our StyleGAN2.

Two layouts, told apart by what the pickle holds:
- PyTorch (stylegan2-ada-pytorch, and the StyleGAN2 of stylegan3): a dictionary with `G_ema`, a tree
  of modules. Its tensors have our names already.
- TensorFlow (stylegan2, stylegan2-ada): the tuple (G, D, Gs). `TENSORFLOW` below is the map.

The architecture comes from the arguments the network was built with. Arguments that our network
does not have must have the value it is written for; what remains wrong shows as a tensor that is
missing, unknown or of another shape. Tensors are float32, also those of layers that NVIDIA runs in
half precision.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlib.checkpoints.networks import build, shapes_of
from airlib.checkpoints.tables import Imported, ignored_names, translate
from airlib.checkpoints.unpickling import PersistentObject, TensorFlowNetwork, read_pickle
from airlib.errors import AirlibError

PYTORCH = [(r"(?:mapping|synthesis)\..*", r"\g<0>", None)]
PYTORCH_IGNORED = {r".*\.resample_filter": "low-pass filter, a constant of the architecture"}

LAYER = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}


def _layer(match: re.Match) -> str:
    return f"synthesis.b{match[1]}.{LAYER[match[2]]}.{match[3]}"


def _style(match: re.Match) -> str:
    return f"synthesis.b{match[1]}.{LAYER[match[2]]}.affine.{match[3]}"


def _noise(match: re.Match) -> str:
    """noise0 belongs to the 4x4 block; then two per resolution, conv0 and conv1."""
    index = int(match[1])
    return f"synthesis.b{2 ** ((index + 5) // 2)}.conv{(index + 1) % 2}.noise_const"


def _transposed(weight: Tensor) -> Tensor:
    return weight.T


def _outputs_first(weight: Tensor) -> Tensor:
    """[height, width, in, out] -> [out, in, height, width]."""
    return weight.permute(3, 2, 0, 1)


def _flipped(weight: Tensor) -> Tensor:
    """TensorFlow's transposed convolution stores the kernel rotated by 180 degrees."""
    return _outputs_first(weight.flip(0, 1))


_AT = r"synthesis/(\d+)x\1/"
TENSORFLOW = [
    (r"dlatent_avg", "mapping.w_avg", None),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", _transposed),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", None),
    (_AT + r"Const/const", r"synthesis.b\1.const", lambda const: const[0]),
    (_AT + r"(Conv0_up)/(weight)", _layer, _flipped),
    (_AT + r"(Conv|Conv1|ToRGB)/(weight)", _layer, _outputs_first),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/(bias|noise_strength)", _layer, None),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/mod_(weight)", _style, _transposed),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/mod_(bias)", _style, lambda bias: bias + 1),
    (r"synthesis/noise(\d+)", _noise, lambda noise: noise[0, 0]),
]
TENSORFLOW_IGNORED = {r"(?:synthesis/)?lod": "progress of progressive growing, unused here"}

# Arguments that change the network and that ours does not have: name -> the value it is written for
FIXED = {
    "img_channels": 3,
    "num_channels": 3,
    "architecture": "skip",
    "activation": "lrelu",
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "use_noise": True,
    "normalize_latents": True,
    "kernel_size": 3,
    "resample_filter": [1, 3, 3, 1],
    "resample_kernel": [1, 3, 3, 1],
}
AGAIN = "download it again"
LARGEST = 2**16  # of any size in the arguments


def read_nvlabs(path: str | Path) -> Imported:
    """The averaged generator in an NVIDIA StyleGAN2 pickle; nothing in it is executed.

    path: a .pkl of stylegan2, stylegan2-ada or stylegan2-ada-pytorch. Raises AirlibError if it is
    missing, damaged or unsafe, and for any other network: conditional, StyleGAN3, of the "orig"
    architecture.
    """
    data = read_pickle(path)
    if isinstance(data, dict) and isinstance(data.get("G_ema"), PersistentObject):
        return _read_pytorch(data["G_ema"], path)
    is_triple = isinstance(data, tuple) and len(data) == 3
    if is_triple and isinstance(data[2], TensorFlowNetwork):
        return _read_tensorflow(data[2], path)
    raise AirlibError(
        f"{path} holds no StyleGAN2 generator: neither a dictionary with G_ema (PyTorch) nor the "
        "networks G, D and Gs (TensorFlow); give the file of a trained network"
    )


# --- PyTorch -------------------------------------------------------------------------------------


def _read_pytorch(generator: PersistentObject, path: str | Path) -> Imported:
    modules = _modules(generator, path)
    source = dict(_tensors(modules))
    if "synthesis.b4.const" not in source or "synthesis.b4.conv1" not in modules:
        raise AirlibError(
            f"{path} holds another network than StyleGAN2 (StyleGAN3, perhaps); "
            "only StyleGAN2 can be imported"
        )
    top = _Arguments(generator.state.get("_init_kwargs"), path)
    mapping, synthesis = top.nested("mapping_kwargs"), top.nested("synthesis_kwargs")
    for arguments in (top, mapping, synthesis):
        arguments.check_fixed()
    # The default of conv_clamp differs between the two repositories; each layer knows its own.
    layer = _Arguments(modules["synthesis.b4.conv1"].state, path)
    config = dict(
        resolution=top.count("img_resolution"),
        z_dim=top.count("z_dim"),
        w_dim=top.count("w_dim"),
        c_dim=top.count("c_dim", 0),
        channel_base=synthesis.count("channel_base", top.count("channel_base", 32768)),
        channel_max=synthesis.count("channel_max", top.count("channel_max", 512)),
        mapping_layers=mapping.count("num_layers", 8, most=100),
        mapping_lr_multiplier=mapping.number("lr_multiplier", 0.01),
        conv_clamp=layer.number("conv_clamp"),
    )
    label = "NVIDIA StyleGAN2 pickle (PyTorch)"
    return _imported(label, source, PYTORCH, PYTORCH_IGNORED, config, path)


def _modules(root: PersistentObject, path: str | Path) -> dict[str, PersistentObject]:
    """Every module below `root` by its dotted name, `root` itself as ""."""
    found, waiting = {}, [("", root)]
    while waiting:
        name, module = waiting.pop()
        found[name] = module
        children = module.state.get("_modules")
        # A tree that contains itself has no end, so size and depth are bounded.
        endless = len(found) > 1000 or len(name) > 100
        if endless or not isinstance(children, dict) or not _are_modules(children.values()):
            raise AirlibError(f"{path} is no network: its tree of modules is broken; {AGAIN}")
        waiting += [(f"{name}.{child}".lstrip("."), children[child]) for child in children]
    return found


def _are_modules(values: Iterable) -> bool:
    return all(isinstance(value, PersistentObject) for value in values)


def _tensors(modules: dict[str, PersistentObject]) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict()` would list."""
    for prefix, module in modules.items():
        for kind in ("_parameters", "_buffers"):
            tensors = module.state.get(kind)
            for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(tensor, Tensor):
                    yield f"{prefix}.{name}".lstrip("."), tensor


# --- TensorFlow ----------------------------------------------------------------------------------


def _read_tensorflow(generator: TensorFlowNetwork, path: str | Path) -> Imported:
    source = _variables(generator, path)
    if any("ToRGB_lod" in name for name in source):
        raise AirlibError(
            f'{path} holds a network of the "orig" architecture; only "skip" (the published '
            "StyleGAN2 networks, configuration F) can be imported"
        )
    arguments = _Arguments(generator.state.get("static_kwargs"), path)
    arguments.check_fixed()
    config = dict(
        resolution=arguments.count("resolution", 1024),
        z_dim=arguments.count("latent_size", 512),
        w_dim=arguments.count("dlatent_size", 512),
        c_dim=arguments.count("label_size", 0),
        channel_base=2 * arguments.count("fmap_base", 16384),
        channel_max=arguments.count("fmap_max", 512),
        mapping_layers=arguments.count("mapping_layers", 8, most=100),
        mapping_lr_multiplier=arguments.number("mapping_lrmul", 0.01),
        conv_clamp=arguments.number("conv_clamp"),
    )
    label = "NVIDIA StyleGAN2 pickle (TensorFlow)"
    return _imported(label, source, TENSORFLOW, TENSORFLOW_IGNORED, config, path)


def _variables(generator: TensorFlowNetwork, path: str | Path) -> dict[str, Tensor]:
    """The variables of the network and of its two components, by path."""
    version, components = (generator.state.get(key) for key in ("version", "components"))
    if type(version) is not int or version < 4:
        raise AirlibError(
            f"{path} was written by an older version of NVIDIA's code (format below 4); "
            "load and save it with the stylegan2-ada code first"
        )
    networks = {"": generator} | {
        f"{name}/": components.get(name) if isinstance(components, dict) else None
        for name in ("mapping", "synthesis")
    }
    result: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        pairs: Any = (
            network.state.get("variables") if isinstance(network, TensorFlowNetwork) else None
        )
        try:
            arrays = {prefix + name: value for name, value in pairs}
        except (TypeError, ValueError) as error:
            raise AirlibError(f"{path} is no network: it lacks variables; {AGAIN}") from error
        if not all(isinstance(value, np.ndarray) for value in arrays.values()):
            raise AirlibError(f"{path} is no network: a variable is no array; {AGAIN}")
        result |= {k: torch.from_numpy(a.astype(np.float32)) for k, a in arrays.items()}
    return result


# --- both ----------------------------------------------------------------------------------------


class _Arguments:
    """The arguments a network was built with: whatever the file says, so each is checked."""

    def __init__(self, values: object, path: str | Path):
        if not isinstance(values, dict):
            raise AirlibError(f"{path} does not say how its network was built; {AGAIN}")
        self.values, self.path = values, path

    def nested(self, name: str) -> "_Arguments":
        return _Arguments(self.values.get(name, {}), self.path)

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        value = self.values.get(name, default)
        if type(value) is not int or not 0 <= value <= most:
            raise AirlibError(f"{self.path} has no valid {name} of its network; {AGAIN}")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        value = self.values.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value <= LARGEST:
            raise AirlibError(f"{self.path} has no valid {name} of its network; {AGAIN}")
        return value

    def check_fixed(self) -> None:
        for name, expected in FIXED.items():
            value = self.values.get(name, expected)
            value = list(value) if isinstance(value, tuple) else value
            if type(value) is not type(expected) or value != expected:
                raise AirlibError(
                    f"{self.path} holds a network built with another {name} than {expected}; "
                    "only the StyleGAN2 of the published networks can be imported"
                )


def _imported(
    label: str,
    source: dict[str, Tensor],
    table: list,
    ignored: dict[str, str],
    config: dict,
    path: str | Path,
) -> Imported:
    """Translate `source` into the network of `config`, name by name and shape by shape."""
    if config["c_dim"]:
        raise AirlibError(
            f"{path} holds a conditional network ({config['c_dim']} classes); "
            "only unconditional ones can be imported"
        )
    try:
        network = build("stylegan2", config)
    except (AirlibError, ArithmeticError, RuntimeError) as error:
        raise AirlibError(f"{path} describes an impossible network: {error}; {AGAIN}") from error
    tensors = translate(source, table, ignored, shapes_of(network), path=path)
    names = ignored_names(source, ignored)
    return Imported("stylegan2", label, tensors, network.config_dict(), names)
