"""Writes pickles as NVIDIA's programs do, from a state dict, without their code.

`pickled` gives the bytes of a stylegan2-ada-pytorch or stylegan3 file, `pickled_tensorflow` those
of a TensorFlow one. Stand-ins for the modules `torch_utils` and `dnnlib` exist only while pickling,
so that what is written names them and what reads cannot import them.
"""

import math
import operator
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
from torch import Tensor, nn

# The defining source travels in the file and NVIDIA's readers execute it. Ours must not.
MODULE_SRC = "raise SystemExit('the source code in a pickle was executed')\n"


class EasyDict(dict):
    """A dictionary with attributes."""


class Network:
    """A network of the TensorFlow code."""

    def __init__(self, **state: object):
        self.state = state

    def __getstate__(self) -> dict:
        return self.state


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("only its name is pickled")


class Persistent(nn.Module):
    """A module of a "persistent" class: it is pickled with its source, as one dictionary."""

    def __init__(self, class_name: str, **attributes: object):
        super().__init__()
        self.class_name, self.attributes = class_name, attributes

    def __reduce__(self) -> tuple:
        state = self.__dict__ | self.attributes
        del state["class_name"], state["attributes"]
        meta = EasyDict(type="class", version=6, module_src=MODULE_SRC)
        meta |= {"class_name": self.class_name, "state": state}
        return _reconstruct_persistent_obj, (meta,), None


@contextmanager
def nvidia_modules() -> Iterator[None]:
    """`torch_utils` and `dnnlib` are importable inside the block."""
    owners = {
        "torch_utils.persistence": _reconstruct_persistent_obj,
        "dnnlib.util": EasyDict,
        "dnnlib.tflib.network": Network,
    }
    names = [*owners, "torch_utils", "dnnlib", "dnnlib.tflib"]
    sys.modules.update({name: ModuleType(name) for name in names})
    for name, value in owners.items():
        value.__module__ = name
        setattr(sys.modules[name], value.__qualname__, value)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def pickled(
    state: dict[str, Tensor], config: dict, flavour: str = "ada", protocol: int = 4, **changes
) -> bytes:
    """A file with G_ema, another G, D and augment_pipe.

    state: a network as NVIDIA names it, config: its `config_dict()` here, flavour: "ada" (nested
    arguments) or "stylegan3" (flat ones), changes: other arguments of the network, or "D": another
    discriminator.
    """
    discriminator = Persistent("Discriminator", _init_args=(), _init_kwargs=EasyDict())
    discriminator = changes.pop("D", discriminator)
    networks = EasyDict(
        G=generator({k: value + 1 for k, value in state.items()}, config, flavour, **changes),
        D=discriminator,
        G_ema=generator(state, config, flavour, **changes),
        training_set_kwargs=dict(class_name="training.dataset.ImageFolderDataset", max_size=None),
        augment_pipe=None,
    )
    with nvidia_modules():
        return pickle.dumps(dict(networks), protocol)


def generator(state: dict[str, Tensor], config: dict, flavour: str, **changes) -> Persistent:
    """The module tree of a StyleGAN2."""
    arguments = EasyDict(z_dim=config["z_dim"], c_dim=config["c_dim"], w_dim=config["w_dim"])
    arguments |= {"img_resolution": config["resolution"], "img_channels": 3}
    arguments["mapping_kwargs"] = EasyDict(num_layers=config["mapping_layers"])
    synthesis = EasyDict({name: config[name] for name in ("channel_base", "channel_max")})
    synthesis |= {"num_fp16_res": 4, "conv_clamp": config["conv_clamp"]}
    arguments |= {"synthesis_kwargs": synthesis} if flavour == "ada" else synthesis
    arguments |= changes
    root = Persistent("Generator", _init_args=(), _init_kwargs=arguments, num_ws=8)
    for name, value in state.items():
        *path, leaf = name.split(".")
        _put(_module(root, path, config["conv_clamp"]), leaf, value)
    return root


def _module(root: Persistent, path: list[str], clamp: float | None) -> Persistent:
    """The module at `path`, made on the way with attributes as NVIDIA's layers have them."""
    for depth, name in enumerate(path):
        if name not in root._modules:
            class_name = "".join(path[: depth + 1]).title()
            gain = np.float64(1 / math.sqrt(2))  # a numpy scalar, as numpy.sqrt returns
            child = Persistent(class_name, conv_clamp=clamp, weight_gain=gain, architecture="skip")
            root.add_module(name, child)
        root = root._modules[name]
    return root


def _put(module: Persistent, name: str, value: Tensor) -> None:
    if name in ("w_avg", "noise_const", "resample_filter"):
        module.register_buffer(name, value)
    else:
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


# --- TensorFlow ----------------------------------------------------------------------------------


def pickled_tensorflow(
    state: dict[str, Tensor],
    config: dict,
    protocol: int = 3,
    version: int = 5,
    number: Callable[[np.ndarray], object] = operator.itemgetter(()),
    alone: bool = False,
    **changes,
) -> bytes:
    """The tuple (G, D, Gs) of networks, the map of NVIDIA's converter run backwards.

    number: how an array without dimensions is stored, a numpy scalar as in NVIDIA's own files.
    alone: Gs instead of the tuple.
    changes: other arguments of the network.
    """
    static = dict(resolution=config["resolution"], num_channels=3, label_size=config["c_dim"])
    static |= {"latent_size": config["z_dim"], "dlatent_size": config["w_dim"]}
    static |= {"fmap_base": config["channel_base"] // 2, "fmap_max": config["channel_max"]}
    static |= {"mapping_layers": config["mapping_layers"], "conv_clamp": config["conv_clamp"]}
    names = [name for name in state if not name.endswith("resample_filter")]
    variables = [tensorflow_variable(name, state[name].numpy()) for name in names]
    variables = [(n, np.ascontiguousarray(a) if a.ndim else number(a)) for n, a in variables]

    def network(name: str, prefix: str, **components: Network) -> Network:
        own = [(n.removeprefix(prefix), a) for n, a in variables if n.startswith(prefix)]
        own = [(n, a) for n, a in own if prefix or "/" not in n]
        return Network(
            version=version,
            name=name,
            static_kwargs=EasyDict(static | changes),
            components=EasyDict(components),
            build_module_src=MODULE_SRC,
            build_func_name="G_main",
            variables=own,
        )

    parts = {name: network(name, f"{name}/") for name in ("mapping", "synthesis")}
    whole = network("Gs", "", **parts)
    with nvidia_modules():
        networks = whole if alone else (whole, Network(version=version), whole)
        return pickle.dumps(networks, protocol)


def tensorflow_variable(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Our name and array -> TensorFlow's."""
    if name == "mapping.w_avg":
        return "dlatent_avg", value
    if name.startswith("mapping.embed."):
        return f"mapping/LabelEmbed/{name.removeprefix('mapping.embed.')}", value.T
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return f"mapping/Dense{match[1]}/{match[2]}", value.T
    match = re.fullmatch(r"synthesis\.b(\d+)\.(.*)", name)
    resolution, rest = int(match[1]), match[2]
    if rest == "const":
        return f"synthesis/{resolution}x{resolution}/Const/const", value[None]
    layer, leaf = rest.split(".", maxsplit=1)
    if leaf == "noise_const":
        index = 2 * int(math.log2(resolution)) - (4 if layer == "conv1" else 5)
        return f"synthesis/noise{index}", value[None, None]
    names = {"conv0": "Conv0_up", "conv1": "Conv" if resolution == 4 else "Conv1", "torgb": "ToRGB"}
    prefix = f"synthesis/{resolution}x{resolution}/{names[layer]}"
    if leaf == "weight":
        kernel = value.transpose(2, 3, 1, 0)
        return f"{prefix}/weight", kernel[::-1, ::-1] if layer == "conv0" else kernel
    if leaf.startswith("affine."):
        value = value.T if leaf == "affine.weight" else value - 1
        return f"{prefix}/mod_{leaf.removeprefix('affine.')}", value
    return f"{prefix}/{leaf}", value
