"""Where in a file of `torch.save` the generator is: trainers wrap its state in many ways.

    {"g_ema": state, "g": ..., "d": ..., "g_optim": ..., "args": ...}      rosinality and relatives
    {"g": state}                                                           JoJoGAN
    {"state_dict": {"generator.conv1...": ...}}                            HyperDomainNet, Lightning
    {"g_ema": {"module.conv1...": ...}}                                    torch.nn.DataParallel
    state

A state is known by one tensor that every network of its kind has, the marker. What is in front of
the marker's name is a prefix of all its names. What stands beside the generator is left out by
name; an unknown entry that holds tensors is an error, as it could be a part of the generator.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlib.checkpoints.networks import WIDEST
from airlib.checkpoints.tables import ignored_names
from airlib.errors import AirlibError

AVERAGED = ("g_ema", "G_ema", "ema", "state_dict")
ENTRIES = (*AVERAGED, "generator", "model", "g", "G")  # where a generator may be, best first
MEANS = ("latent_avg", "mean_latent")
IGNORED_ENTRIES = {
    "g|G|generator": "generator before averaging",
    "d|D|d_ema|discriminator": "discriminator",
    ".*optim.*|opt_.*|sched.*|lr_sched.*|callbacks|loops": "state of the training",
    "style_latents?": "latent of a reference image",
}
PLAIN = "no tensor, such as a counter or an option"
LOOKED_AT = 1000  # values in an entry, before it counts as one that holds tensors


@dataclass(frozen=True)
class Wrapped:
    """The state of a generator as it was found in a file.

    state: name without prefix -> whatever the file has there. mean: the mean latent beside it or
    among its names, of any type, or None. note: what to know about where it was found, or "".
    ignored: what was left out, each as "name: reason".
    """

    state: dict[str, Any]
    mean: Any = None
    note: str = ""
    ignored: tuple[str, ...] = field(default=())


def is_wrapped(content: Any, marker: str) -> bool:
    """Whether the content of a .pt file holds a state with the tensor `marker`, however wrapped.

    content: what `read_torch` returned.
    """
    return any(_prefixes(state, marker) for _, state in _states(content))


def unwrap(content: Any, marker: str, path: str | Path) -> Wrapped:
    """The state of the generator in the content of a .pt file, for which `is_wrapped` is true.

    content: what `read_torch` returned for `path`, the file that errors name. marker: name of a
    tensor that every such state has. Raises AirlibError if there are several generators among which
    no name chooses, or entries beside it that hold tensors and are unknown.
    """
    entry, state = next(found for found in _states(content) if _prefixes(found[1], marker))
    prefix = _prefix(state, marker, path)
    inside = {k.removeprefix(prefix): v for k, v in state.items() if _starts(k, prefix)}
    beside = sorted({str(k).split(".")[0] for k in state if not _starts(k, prefix)})
    ignored = tuple(f"{name}.*: beside the generator" for name in beside)
    if entry is None and not prefix:  # a bare state, perhaps with counters among its tensors
        plain = [name for name in inside if "." not in name and _is_plain(inside[name])]
        ignored += tuple(f"{name}: {PLAIN}" for name in plain)
        inside = {name: value for name, value in inside.items() if name not in plain}
    elif entry is not None:
        ignored += _unused_entries(content, entry, path)
    means = [inside.pop(name, None) for name in MEANS]
    means += [content.get(name) for name in MEANS if entry is not None]
    mean = next((value for value in means if value is not None), None)
    averaged = entry is None or entry in AVERAGED
    note = "" if averaged else f"no g_ema in it: its {entry}"
    return Wrapped(inside, mean, note, ignored)


def mean_of(value: Any, width: int, path: str | Path) -> Tensor:
    """The mean latent [width] in what a file has for it, float32.

    value: a tensor or array of `width` numbers, of equal rows of them, or a list of such. Raises
    AirlibError for all else.
    """
    try:
        items = value[: 2 * WIDEST] if isinstance(value, list | tuple) else [value]
        parts = [torch.from_numpy(np.array(_on_cpu(item), np.float32)) for item in items]
        rows = torch.cat([part.flatten() for part in parts]).reshape(-1, width)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise AirlibError(
            f"{path} holds a mean latent of another size than {width}, or one that is no numbers; "
            "remove that entry, and the mean is computed"
        ) from error
    if not len(rows) or not ((rows == rows[0]) | rows.isnan()).all():
        raise AirlibError(
            f"{path} holds a mean latent of {len(rows)} rows that differ; one for all layers is "
            "needed: remove that entry, and the mean is computed"
        )
    return rows[0].clone()


def _on_cpu(item: Any) -> Any:
    """Numbers that numpy takes; TypeError for containers, which could be endless."""
    if isinstance(item, Tensor):
        return item.detach().float().numpy()
    if isinstance(item, np.ndarray | float | int):
        return item
    raise TypeError(f"a {type(item).__name__} is no number")


def _states(content: Any) -> Iterator[tuple[str | None, dict]]:
    """(entry or None for the content itself, dictionary), best first."""
    if isinstance(content, dict):
        yield from ((e, content[e]) for e in ENTRIES if isinstance(content.get(e), dict))
        yield None, content
        others = (name for name in content if isinstance(name, str) and name not in ENTRIES)
        yield from ((e, content[e]) for e in others if isinstance(content[e], dict))


def _prefixes(state: dict, marker: str) -> list[str]:
    names = [name for name in state if isinstance(name, str) and name.endswith(marker)]
    prefixes = [name.removesuffix(marker) for name in names]
    return sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))


def _prefix(state: dict, marker: str, path: str | Path) -> str:
    """What is in front of the generator's names: of the averaged one where there are several."""
    prefixes = _prefixes(state, marker)
    if "" in prefixes:
        return ""
    averaged = [prefix for prefix in prefixes if "ema" in prefix.lower()]
    best = averaged or prefixes
    if len(best) != 1:
        raise AirlibError(
            f"{path} holds several generators ({', '.join(best[:4])[:200]}); save the one you mean "
            "alone and import that file"
        )
    return best[0]


def _starts(name: Any, prefix: str) -> bool:
    return isinstance(name, str) and name.startswith(prefix)


def _unused_entries(content: dict, entry: str, path: str | Path) -> tuple[str, ...]:
    """The entries beside the generator, each with the reason; unknown tensors are an error."""
    others = {str(k): v for k, v in content.items() if k not in (entry, *MEANS)}
    plain = [name for name, value in others.items() if _is_plain(value)]
    ignored = ignored_names(sorted(others.keys() - plain), IGNORED_ENTRIES)
    known = {line.split(":")[0] for line in ignored} | set(plain)
    if unknown := sorted(others.keys() - known):
        raise AirlibError(
            f"{path} has entries that this importer does not know: {', '.join(unknown)[:200]}; "
            f"save its {entry} and latent_avg alone and import that file"
        )
    return ignored + tuple(f"{name}: {PLAIN}" for name in sorted(plain))


def _is_plain(value: Any) -> bool:
    """Whether there is no tensor of more than one number in it."""
    waiting, looked_at = [value], 0
    while waiting:
        item, looked_at = waiting.pop(), looked_at + 1
        if isinstance(item, Tensor | np.ndarray):
            if np.prod(item.shape) != 1:
                return False
        elif isinstance(item, argparse.Namespace):
            item = vars(item)
        if isinstance(item, dict | list | tuple | set):
            waiting += list(item.values() if isinstance(item, dict) else item)
        if looked_at + len(waiting) > LOOKED_AT:
            return False
    return True
