"""OpenAI's CLIP files: TorchScript archives, of which only the numbers are read.

Such an archive is a zip of stored members:

    NAME/data.pkl      the module tree: attribute dicts whose tensors point to a storage by number
    NAME/data/<n>      the storages, raw little-endian numbers
    NAME/code/...      the network's program, which we do not need and do not open

`torch.jit.load` would run parts of that program (methods that restore a module's state), and a
TorchScript program can read and write files, so for a file of unknown origin it is no safe way to
get at the weights. Here data.pkl runs on the machine that can only build data
(`airlib.checkpoints.pickle_machine`): every class of the program becomes the same empty shell that
keeps its attributes.

The names in the tree are open_clip's, and `airlib.checkpoints.clip_states` reads them. The network
is recorded with `quick_gelu`, which OpenAI trained with and open_clip does not assume by itself.
"""

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from airlib.checkpoints.clip_states import imported, is_clip
from airlib.checkpoints.pickle_machine import Budget, Machine
from airlib.checkpoints.tables import Imported
from airlib.checkpoints.torch_files import TorchMachine, run_archive
from airlib.checkpoints.unpickling import errors_of, regular_file
from airlib.errors import AirlibError
from airlib.files import open_zip

SOURCE = "OpenAI CLIP archive (TorchScript)"
LONGEST_NAME = 500  # characters of a tensor's dotted name; CLIP's have 60


def read_openai_clip(path: str | Path) -> Imported:
    """The network in an OpenAI CLIP archive (TorchScript); nothing in it is executed.

    The result's `config` holds the arguments of `open_clip.model.CLIP`. Raises AirlibError if the
    file is missing, not a TorchScript archive, damaged or unsafe, or holds another network.
    """
    state = read_torchscript(path)
    if not is_clip(state):
        raise AirlibError(f"{path} is a TorchScript archive but not an OpenAI CLIP")
    return imported(state, SOURCE, True, path)


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a zip with a TorchScript program inside."""
    if not zipfile.is_zipfile(path):
        return False
    with errors_of(Path(path), "zip"), open_zip(path) as archive:
        members = archive.namelist()
    return any(name.endswith("/data.pkl") for name in members) and any(
        re.fullmatch(r"[^/]+/code/.*", name) for name in members
    )


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a TorchScript archive, by their dotted name in the tree of modules.

    Nothing in the archive is executed. Raises AirlibError if it is missing, damaged or unsafe.
    """
    path = regular_file(path)
    if not is_torchscript(path):
        raise AirlibError(
            f"{path} is no TorchScript archive, or it is damaged; `airlib import {path}` says what "
            "it is"
        )
    with errors_of(path, "TorchScript archive"), open_zip(path) as archive:
        return _named_tensors(_read_tree(archive, Budget(path.stat().st_size)))


class _Module:
    """Shell of any class of the program: its attributes."""

    def __init__(self, machine: Machine):
        self.attributes: dict = {}


def _first(machine: Machine, value: object, *_type_tag: object) -> object:
    return value


class _ModuleTree(TorchMachine):
    """The machine for data.pkl: besides tensors it builds the shells of modules."""

    calls = TorchMachine.calls | {
        "__torch__.Class": _Module,
        "torch.jit._pickle.restore_type_tag": _first,
        "torch.jit._pickle.build_intlist": _first,
    }

    def name(self, module: str, name: str) -> None:
        ours = isinstance(module, str) and module.split(".")[0] == "__torch__"
        super().name(*("__torch__", "Class") if ours else (module, name))

    def build(self, target: object, state: Any) -> None:
        if isinstance(target, _Module) and isinstance(state, dict):
            target.attributes = state
        else:
            super().build(target, state)


def _read_tree(archive: zipfile.ZipFile, budget: Budget) -> object:
    """The root module of an archive."""
    data = next(name for name in archive.namelist() if re.fullmatch("[^/]+/data.pkl", name))
    root = data.removesuffix("data.pkl")
    for member in archive.infolist():  # the program in code/ is compressed, and not opened
        plain = not member.flag_bits & 1 and member.compress_type == zipfile.ZIP_STORED
        if not plain and member.filename.startswith((data, f"{root}data/")):
            raise UnpicklingError(f"holds {member.filename} encrypted or compressed")
    return run_archive(archive, root, budget, _ModuleTree)


def _named_tensors(root: object) -> dict[str, Tensor]:
    """All tensors below a module, by dotted name."""
    tensors, waiting = {}, [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if len(prefix) > LONGEST_NAME or not isinstance(module, _Module):
            raise UnpicklingError("is not a tree of modules")
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    return tensors
