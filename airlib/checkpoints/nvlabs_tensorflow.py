"""Networks of NVIDIA's TensorFlow code (stylegan2, stylegan2-ada) -> our StyleGAN2.

`TENSORFLOW` is the map. Variables are arrays; those of no dimension, such as noise_strength, are
numpy scalars in NVIDIA's own files.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlib.checkpoints.nvlabs_network import AGAIN, Arguments, imported
from airlib.checkpoints.tables import Imported, Rule
from airlib.checkpoints.unpickling import TensorFlowNetwork
from airlib.errors import AirlibError

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
TENSORFLOW: list[Rule] = [
    (r"dlatent_avg", "mapping.w_avg", None),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", _transposed),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", None),
    (r"mapping/LabelEmbed/weight", "mapping.embed.weight", _transposed),
    (r"mapping/LabelEmbed/bias", "mapping.embed.bias", None),
    (_AT + r"Const/const", r"synthesis.b\1.const", lambda const: const[0]),
    (_AT + r"(Conv0_up)/(weight)", _layer, _flipped),
    (_AT + r"(Conv|Conv1|ToRGB)/(weight)", _layer, _outputs_first),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/(bias)", _layer, None),
    (_AT + r"(Conv|Conv0_up|Conv1)/(noise_strength)", _layer, lambda number: number.reshape(())),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/mod_(weight)", _style, _transposed),
    (_AT + r"(Conv|Conv0_up|Conv1|ToRGB)/mod_(bias)", _style, lambda bias: bias + 1),
    (r"synthesis/noise(\d{1,2})", _noise, lambda noise: noise[0, 0]),
]
TENSORFLOW_IGNORED = {r"(?:synthesis/)?lod": "progress of progressive growing, unused here"}


def read_tensorflow(
    generator: TensorFlowNetwork, path: str | Path, class_index: int | None = None
) -> Imported:
    """The network that NVIDIA's TensorFlow code pickled as `generator`.

    path: the file that errors name. class_index: which class of a conditional network to restrict
    it to. Raises AirlibError if it is no StyleGAN2 that ours can be.
    """
    source = _variables(generator, path)
    if any("ToRGB_lod" in name for name in source):
        raise AirlibError(
            f'{path} holds a network of the "orig" architecture; only "skip" (the published '
            "StyleGAN2 networks, configuration F) can be imported"
        )
    if any("LabelConcat" in name for name in source):
        raise AirlibError(
            f"{path} holds a conditional network of the first StyleGAN2 code, which normalises z "
            "and class together; only those of stylegan2-ada can be imported"
        )
    arguments = Arguments(generator.state.get("static_kwargs"), path)
    arguments.check_fixed()
    config = arguments.config(
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
    return imported(label, source, TENSORFLOW, TENSORFLOW_IGNORED, config, path, class_index)


def _variables(generator: TensorFlowNetwork, path: str | Path) -> dict[str, Tensor]:
    """The variables of the network and of its two components, by path, float32."""
    version, components = (generator.state.get(key) for key in ("version", "components"))
    if type(version) is not int or version < 4:
        raise AirlibError(
            f"{path} was written by an older version of NVIDIA's code (format below 4); "
            "load and save it with the stylegan2-ada code first"
        )
    parts = components if isinstance(components, dict) else {}
    networks = {"": generator} | {f"{n}/": parts.get(n) for n in ("mapping", "synthesis")}
    result: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        state = network.state if isinstance(network, TensorFlowNetwork) else {}
        pairs: Any = state.get("variables")
        try:
            result |= {prefix + name: _numbers(value) for name, value in pairs}
        except (ArithmeticError, TypeError, ValueError) as error:
            raise AirlibError(
                f"{path} is no network: it lacks variables, or one is no number ({error}); {AGAIN}"
            ) from error
    return result


def _numbers(value: Any) -> Tensor:
    """An array, or a number as an array without dimensions; TypeError for all else."""
    if not isinstance(value, np.ndarray | np.number | float | int):
        raise TypeError(f"it is a {type(value).__name__}")
    return torch.from_numpy(np.array(value, np.float32))
