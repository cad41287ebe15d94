"""NVIDIA's StyleGAN2 files -> our StyleGAN2.

Three layouts, told apart by what the file holds:
- PyTorch (stylegan2-ada-pytorch, and the StyleGAN2 of stylegan3): a pickled dictionary with
  `G_ema`, a tree of modules. Its tensors have our names already.
- TensorFlow (stylegan2, stylegan2-ada): the pickled tuple (G, D, Gs), see `nvlabs_tensorflow`.
- a state dict under NVIDIA's names that somebody saved, as a rule with `torch.save`. Its shapes
  tell the architecture; what they cannot tell is assumed, and said.

The averaged generator may also be pickled alone. A conditional network is imported for one of its
classes. Tensors are float32, also those of layers that NVIDIA runs in half precision.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.networks import stylegan2_config
from airlib.checkpoints.nvlabs_network import AGAIN, Arguments, imported
from airlib.checkpoints.nvlabs_tensorflow import read_tensorflow
from airlib.checkpoints.tables import Imported, Rule, numbers
from airlib.checkpoints.unpickling import PersistentObject, TensorFlowNetwork, read_pickle
from airlib.checkpoints.wrappings import is_wrapped, unwrap
from airlib.errors import AirlibError
from airlib.generators.stylegan2_layers import LOW_PASS

STATE_SOURCE = "NVIDIA StyleGAN2 state dict"
ASSUMED = "mapping_lr_multiplier 0.01 and no conv_clamp assumed, as shapes do not tell"
MARKER = "synthesis.b4.const"
TABLE: list[Rule] = [(r"(?:mapping|synthesis)\..*", r"\g<0>", None)]
IGNORED = {r".*\.resample_filter": "low-pass filter, a constant of the architecture"}
MOST = 1000  # modules of a network, and tensors of a module


def read_nvlabs(path: str | Path, class_index: int | None = None) -> Imported:
    """The averaged generator in an NVIDIA StyleGAN2 pickle; nothing in it is executed.

    path: a .pkl of stylegan2, stylegan2-ada or stylegan2-ada-pytorch. class_index: which class of a
    conditional network to restrict it to (`StyleGAN2.restrict`). Without a mean w in the file, the
    mean of 10,000 mapped latents stands for it. Raises AirlibError if the file is missing, damaged
    or unsafe, for a conditional network without class_index, and for any other network: StyleGAN3,
    of the "orig" architecture.
    """
    data = read_pickle(path)
    if is_nvlabs_state(data):
        return from_nvlabs_state(data, path, class_index)
    generator = data.get("G_ema") if isinstance(data, dict) else data
    if isinstance(data, tuple) and len(data) == 3:
        generator = data[2]
    if isinstance(generator, PersistentObject):
        return _read_pytorch(generator, path, class_index)
    if isinstance(generator, TensorFlowNetwork):
        return read_tensorflow(generator, path, class_index)
    raise AirlibError(
        f"{path} holds no StyleGAN2 generator: neither a dictionary with G_ema (PyTorch) nor the "
        "networks G, D and Gs (TensorFlow); give the file of a trained network"
    )


def is_nvlabs_state(content: Any) -> bool:
    """Whether the content of a .pt file is the state of a StyleGAN2 under NVIDIA's names.

    content: what `read_torch` returned.
    """
    return is_wrapped(content, MARKER)


def from_nvlabs_state(content: Any, path: str | Path, class_index: int | None = None) -> Imported:
    """The StyleGAN2 generator whose state is in the content of a .pt file.

    content: what `read_torch` returned for `path`, the file that errors name. class_index: which
    class of a conditional network to restrict it to. Raises AirlibError if tensors are unknown or
    missing, or the shapes are not those of a StyleGAN2.
    """
    found = unwrap(content, MARKER, path)
    state = found.state
    for name, tensor in state.items():
        is_filter = name.endswith(".resample_filter") and isinstance(tensor, Tensor)
        if is_filter and not torch.equal(tensor.float(), LOW_PASS / 4):
            raise AirlibError(
                f"{path} uses another low-pass filter than [1, 3, 3, 1] ({name}), which our "
                "network does not have"
            )
    config = _config(state, path)
    label = f"{STATE_SOURCE} ({ASSUMED}{found.note and '; ' + found.note})"
    result = imported(label, state, TABLE, IGNORED, config, path, class_index)
    return replace(result, ignored=found.ignored + result.ignored)


def _config(state: dict[str, Any], path: str | Path) -> Any:
    """The architecture, from names and shapes."""
    sizes = sorted(numbers(state, r"synthesis\.b(\d{1,5})\.conv1\.weight"))
    depth = len(numbers(state, r"mapping\.fc(\d{1,4})\.weight"))
    try:
        channels = [state[f"synthesis.b{size}.conv1.weight"].shape[0] for size in sizes]
        inputs, width = state["mapping.fc0.weight"].shape[1], state[f"mapping.fc{depth - 1}.bias"]
        embedding = state.get("mapping.embed.weight")
        embedded, classes = (0, 0) if embedding is None else embedding.shape
        dims = {"z_dim": inputs - embedded, "w_dim": len(width), "mapping_layers": depth}
    except KeyError as error:
        raise AirlibError(
            f"{path} looks like the state of a StyleGAN2 but lacks {error}; it is damaged"
        ) from error
    except (IndexError, AttributeError, TypeError, ValueError) as error:
        raise AirlibError(
            f"{path} looks like the state of a StyleGAN2, but its weights are none; it is damaged"
        ) from error
    return replace(stylegan2_config(channels, path, **dims), c_dim=classes)


# --- trees of modules ----------------------------------------------------------------------------


def _read_pytorch(
    generator: PersistentObject, path: str | Path, class_index: int | None
) -> Imported:
    modules = _modules(generator, path)
    source = _tensors(modules, path)
    if MARKER not in source or "synthesis.b4.conv1" not in modules:
        raise AirlibError(
            f"{path} holds another network than StyleGAN2 (StyleGAN3, perhaps); "
            "only StyleGAN2 can be imported"
        )
    top = Arguments(generator.state.get("_init_kwargs"), path)
    mapping, synthesis = top.nested("mapping_kwargs"), top.nested("synthesis_kwargs")
    for arguments in (top, mapping, synthesis):
        arguments.check_fixed()
    # The default of conv_clamp differs between the two repositories; each layer knows its own.
    layer = Arguments(modules["synthesis.b4.conv1"].state, path)
    config = top.config(
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
    return imported(label, source, TABLE, IGNORED, config, path, class_index)


def _modules(root: PersistentObject, path: str | Path) -> dict[str, PersistentObject]:
    """Every module below `root` by its dotted name, `root` itself as ""."""
    found, waiting, steps = {}, [("", root)], 0
    while waiting:
        name, module = waiting.pop()
        found[name] = module
        steps += 1
        children = module.state.get("_modules")
        # A tree that contains itself has no end, so size and depth are bounded.
        endless = steps + len(waiting) > MOST or len(name) > 100
        if endless or not isinstance(children, dict) or not _are_modules(children.values()):
            raise AirlibError(f"{path} is no network: its tree of modules is broken; {AGAIN}")
        waiting += [(f"{name}.{child}".lstrip("."), children[child]) for child in children]
    return found


def _are_modules(values: Iterable) -> bool:
    return all(isinstance(value, PersistentObject) for value in values)


def _tensors(modules: dict[str, PersistentObject], path: str | Path) -> dict[str, Tensor]:
    """What `state_dict()` would list."""
    result = {}
    for prefix, module in modules.items():
        for kind in ("_parameters", "_buffers"):
            tensors = module.state.get(kind)
            tensors = tensors if isinstance(tensors, dict) else {}
            if len(tensors) > MOST:
                raise AirlibError(f"{path} is no network: {len(tensors)} tensors in one module")
            for name, tensor in tensors.items():
                if isinstance(tensor, Tensor):
                    result[f"{prefix}.{name}".lstrip(".")] = tensor
    return result
