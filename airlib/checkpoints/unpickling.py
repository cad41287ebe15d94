"""Reading foreign pickle files without running them.

A pickle is a program that may import and call anything, and NVIDIA's also carry source code that
their readers execute. Here such a program runs on a machine that can only build data:

    pickle_machine   the machine: stack, memo, limits
    pickle_names     what names that many files use build: containers, tensors, numbers
    torch_files      the two layouts of torch.save             -> read_torch
    this module      NVIDIA's objects and TensorFlow networks  -> read_pickle

A file that asks for more, or is not what it should be, is one AirlibError.
"""

import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from airlib.checkpoints.pickle_machine import Blob, Budget, Machine, Source
from airlib.checkpoints.pickle_names import DataMachine, opened
from airlib.checkpoints.torch_files import read_archive, read_legacy
from airlib.errors import AirlibError
from airlib.files import open_zip

# What a program that makes no sense raises, besides UnpicklingError.
NONSENSE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile),
)


@dataclass(frozen=True, eq=False)
class PersistentObject:
    """An object of NVIDIA's PyTorch code, such as a module: `state` is its `__dict__`.

    An object of other code, such as a `torch.nn.Conv2d`, becomes one too, of version 0.
    """

    class_name: str
    version: int
    state: dict


@dataclass(frozen=True, eq=False)
class TensorFlowNetwork:
    """A network of NVIDIA's TensorFlow code: `state` is what its `__getstate__` returned."""

    state: dict = field(default_factory=dict)


def read_pickle(path: str | Path) -> Any:
    """The data in an NVIDIA pickle (protocol 2 to 4); nothing in it is executed.

    Objects of NVIDIA's code become `PersistentObject` and `TensorFlowNetwork`. So do those of other
    packages, such as the discriminator of a fork: shells that keep their attributes. Raises
    AirlibError if the file is missing, damaged, or holds anything else but tensors, arrays,
    containers, numbers and text.
    """
    path = regular_file(path)
    with errors_of(path, "NVIDIA pickle"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _check_start(file)
        return _NvidiaMachine(Source(file, size), Budget(size)).run()


def read_torch(path: str | Path) -> Any:
    """The data in a file of `torch.save` (zip or older), tensors on the CPU; nothing is executed.

    Raises AirlibError if the file is missing, damaged, encrypted, or holds anything but tensors,
    containers, numbers, text and `argparse.Namespace` (the `args` of rosinality's snapshots).
    """
    path = regular_file(path)
    with errors_of(path, "PyTorch file"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not zipfile.is_zipfile(file):
            file.seek(0)
            _check_start(file)
            return read_legacy(Source(file, size), Budget(size))
        with open_zip(path) as archive:
            _check_archive(archive, path)
            return read_archive(archive, Budget(size))


@contextmanager
def errors_of(path: Path, kind: str) -> Iterator[None]:
    """Context that turns whatever reading a bad file raises into one AirlibError.

    kind: what the file should be, in words.
    """
    try:
        yield
    except UnpicklingError as error:
        raise AirlibError(
            f"{path} is refused: it {error}. Nothing in it was executed; take the file from its "
            "publisher, and do not open this one with other software"
        ) from error
    except OSError as error:
        raise AirlibError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except NONSENSE as error:
        first_line, *_ = str(error).splitlines() or [""]
        raise AirlibError(
            f"{path} is damaged or no {kind} ({type(error).__name__}: {first_line[:200]}); "
            "download it again"
        ) from error


def regular_file(path: str | Path) -> Path:
    """The path of a file that exists and is not empty; AirlibError with what to do otherwise."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise AirlibError(f"{path} is a link to nowhere; restore the file it points to")
    if path.is_dir():
        raise AirlibError(f"{path} is a directory; give the file inside it")
    if not path.is_file():
        raise AirlibError(f"no such file: {path}; check the path, or download it first")
    if path.stat().st_size == 0:
        raise AirlibError(f"{path} is empty; download it again")
    return path


def _check_start(file: BufferedReader) -> None:
    if file.peek(1)[:1] != b"\x80":
        raise ValueError("it does not start like a pickle of protocol 2 to 4")


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """torch.save neither encrypts nor compresses; an archive that does can be a bomb."""
    members = archive.infolist()
    if any(member.flag_bits & 1 for member in members):
        raise AirlibError(f"{path} is an encrypted zip; decrypt it first")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise AirlibError(f"{path} is a compressed zip; extract it and give the file inside")


# --- NVIDIA's names ------------------------------------------------------------------------------


def _persistent_object(machine: Machine, meta: dict) -> PersistentObject:
    """Source code in `meta` stays a string that nobody reads."""
    described = PersistentObject(meta["class_name"], meta["version"], meta["state"])
    kinds = {name: type(value) for name, value in vars(described).items()}
    if meta["type"] != "class" or kinds != PersistentObject.__annotations__:
        raise TypeError("an object of NVIDIA's code is not described as one")
    return described


def _network(machine: Machine) -> TensorFlowNetwork:
    return TensorFlowNetwork()


def _easy_dict(machine: Machine) -> dict:
    return {}


def _storage(machine: Machine, value: bytes | Blob) -> Tensor:
    """A storage is a whole file of torch.save inside the pickle; the original calls torch.load."""
    with opened(machine, value) as source:
        storage = read_legacy(source, machine.budget)
    if not isinstance(storage, Tensor):
        raise TypeError("the numbers of a tensor are something else")
    return storage


@dataclass(frozen=True)
class _Foreign:
    """The name of a class of another package; it stays a name and is not imported."""

    name: str


def _is_foreign(module: object, name: object) -> bool:
    """Whether MODULE.NAME is in a package that defines networks, as far as a name can tell.

    Python's own modules, numpy and torch do other things as well; of them, `torch.nn` is foreign.
    """
    if type(module) is not str or type(name) is not str:
        return False
    package = module.split(".")[0]
    able = sys.stdlib_module_names | {"__builtin__", "numpy", "torch"}
    return package not in able or module.startswith("torch.nn.")


def _values(machine: Machine, *values: object) -> tuple:
    """A size or device, which nobody reads."""
    return values


class _NvidiaMachine(DataMachine):
    """Runs a pickle of NVIDIA's; what it does with classes of other packages cannot do anything.

    They can be named, and an object of one can be made without arguments, as Python's pickle makes
    every object, and given a state or items. To call one with arguments ends the program.
    """

    calls = DataMachine.calls | {
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "dnnlib.tflib.network.Network": _network,
        "dnnlib.util.EasyDict": _easy_dict,
        "torch.storage._load_from_bytes": _storage,
        "torch.Size": _values,
        "torch.device": _values,
        **{f"torch.{dtype}": None for dtype in ("float16", "float32", "float64", "bfloat16")},
    }

    def name(self, module: str, name: str) -> None:
        if f"{module}.{name}" not in self.calls and _is_foreign(module, name):
            self.push(_Foreign(f"{module}.{name}"))
        else:
            super().name(module, name)

    def call(self) -> None:
        if not isinstance(self.stack[-2], _Foreign):
            return super().call()
        function, arguments = self.pop(2)
        if type(arguments) is not tuple or arguments:
            raise UnpicklingError(f"calls {function.name[:100]!r}, which no network needs")
        self.push(PersistentObject(function.name, 0, {}))

    def build(self, target: object, state: Any) -> None:
        if isinstance(target, PersistentObject | TensorFlowNetwork) and isinstance(state, dict):
            self.budget.spend(len(state))
            target.state.update(state)
        elif not isinstance(target, PersistentObject):  # one without a __dict__ has other states
            super().build(target, state)

    def extend(self, items: list) -> None:
        if not isinstance(self.stack[-1], PersistentObject):  # a foreign list or dictionary
            super().extend(items)
