"""The two layouts of `torch.save`, read by a machine that only builds data.

    zip     NAME/data.pkl is the program; NAME/data/<key> are the storages
    before  magic number, version, system, program, list of keys, each a pickle; then for each key
    1.6     the count as 8 bytes and the numbers

A program names a storage by a persistent id: ("storage", type, key, device, count).

torch.load with weights_only=True would do for honest files, but it hashes whatever a file gives as
a key, and a tuple nested 150,000 times, 150 kB on disk, then overflows the C stack (seen with torch
2.14): a crash, not an error. It also reserves what a file of the older layout merely declares.
"""

import argparse
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.pickle_machine import Budget, Machine, Source, key
from airlib.checkpoints.pickle_names import STORAGES, DataMachine

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

Load = Callable[[str, torch.dtype, int], Tensor]
"""(key, dtype, count) -> the storage [count]."""


def _namespace(machine: Machine) -> argparse.Namespace:
    return argparse.Namespace()


def _default_dict(machine: Machine, *_factory: object) -> dict:
    return {}


def _size(machine: Machine, numbers: tuple) -> tuple:
    return numbers


class TorchMachine(DataMachine):
    """Runs a pickle program that torch.save wrote; its storages come from `load`.

    load: called with key, dtype and count of numbers, returns the storage as a tensor [count].
    `storages` holds those loaded so far, by key.
    """

    calls = DataMachine.calls | {
        "argparse.Namespace": _namespace,
        "collections.defaultdict": _default_dict,
        "builtins.dict": None,
        "__builtin__.dict": None,
        "torch.Size": _size,
        **dict.fromkeys(STORAGES),
    }

    def __init__(self, source: Source, budget: Budget, load: Load):
        super().__init__(source, budget)
        self.load = load
        self.storages: dict[str | int, Tensor] = {}

    def persistent(self, identifier: Any) -> Tensor:
        """The storage that ("storage", type, key, device, count) stands for, loaded once."""
        kind, storage, name, _device, count, *view = identifier
        if kind != "storage" or type(name) is not str or view not in ([], [None]):
            raise UnpicklingError("refers to something that is not the numbers of a tensor")
        if type(count) is not int or count < 0:
            raise ValueError("the length of a storage is not a count")
        if name not in self.storages:
            self.storages[name] = self.load(name, STORAGES[storage.name], count)
        return self.storages[name]

    def build(self, target: object, state: Any) -> None:
        if isinstance(target, argparse.Namespace) and isinstance(state, dict):
            self.budget.spend(len(state))
            vars(target).update(state)
        else:
            super().build(target, state)


def read_archive(archive: zipfile.ZipFile, budget: Budget) -> Any:
    """The data in a zip that torch.save wrote, tensors on the CPU; nothing in it is executed.

    budget: what the file may unpack to. Raises ValueError, or another error of a program that makes
    no sense, if it is no such file, and UnpicklingError if it asks for more than data.
    """
    programs = [n for n in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", n)]
    if len(programs) != 1:
        raise ValueError("a zip, but not of torch.save")
    root = programs[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in archive.namelist():
        raise ValueError("a TorchScript archive, not a file of torch.save")
    return run_archive(archive, root, budget, TorchMachine)


def run_archive(
    archive: zipfile.ZipFile, root: str, budget: Budget, machine: type[TorchMachine]
) -> Any:
    """What the program ROOTdata.pkl of a zip builds on `machine`.

    root: prefix of the members, with its slash; the storages are ROOTdata/KEY. budget: what the
    file may unpack to. Raises UnpicklingError if the program asks for more than data, and EOFError
    or another error of a program that makes no sense if it is damaged.
    """

    def member(name: str) -> bytes:
        budget.spend(archive.getinfo(root + name).file_size)
        return archive.read(root + name)

    def load(name: str, dtype: torch.dtype, count: int) -> Tensor:
        data = bytearray(member(f"data/{name}"))
        if len(data) != count * dtype.itemsize:
            raise EOFError("a storage has another length than declared")
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    if f"{root}byteorder" in archive.namelist() and member("byteorder") != b"little":
        raise UnpicklingError("holds tensors of a big-endian machine")
    program = member("data.pkl")
    return machine(Source(BytesIO(program), len(program)), budget, load).run()


def read_legacy(source: Source, budget: Budget) -> Any:
    """The data in a file that torch.save wrote before torch 1.6, tensors on the CPU.

    If the program is nothing but a persistent id, the result is the storage itself. budget: what
    the file may unpack to. Raises UnpicklingError if it asks for more than data, and EOFError,
    ValueError or another error of a program that makes no sense if it is damaged.
    """
    declared = 0

    def load(name: str, dtype: torch.dtype, count: int) -> Tensor:
        """Room for a storage whose numbers come after the program."""
        nonlocal declared
        declared += count * dtype.itemsize
        if declared > source.left:
            raise EOFError("it ends too early")
        return torch.empty(count, dtype=dtype)

    magic, version, system = (DataMachine(source, budget).run() for _ in range(3))
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError("not a file of torch.save")
    if not system["little_endian"]:
        raise UnpicklingError("holds tensors of a big-endian machine")
    machine = TorchMachine(source, budget, load)
    result = machine.run()
    for name in DataMachine(source, budget).run():
        storage = machine.storages.pop(key(name))
        if struct.unpack("<q", source.read(8)) != (len(storage),):
            raise EOFError("a storage has another length than declared")
        source.readinto(memoryview(storage.view(torch.uint8).numpy().data))
    if machine.storages:
        raise EOFError("the numbers of a tensor are missing")
    return result
