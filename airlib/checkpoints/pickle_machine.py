"""A stack machine for pickle programs that builds data and can do nothing else.

Python's own machine imports what a program names and calls it. Here a global stays a name, and a
subclass says in `calls` what "calling" a name builds; any other name, opcode or persistent id ends
the program with `pickle.UnpicklingError`. Opcodes are those that protocols 2 to 4 write.

A length is compared with the bytes that are left before memory is reserved, long byte strings stay
in the file until they are needed, and `Budget` bounds what a small file can unpack to. What comes
out can be walked through: it does not contain itself (`airlib.checkpoints.finite_data`).
"""

import os
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pickle import UnpicklingError
from typing import Any

from airlib.checkpoints.finite_data import check_finite

MAX_OPCODES = 500_000  # ten times those of a 1024 px StyleGAN2 pickle with G, D and G_ema
GROWTH = 5  # bytes unpacked per byte of the file: its storages, and the tensors that share them
LONGEST_KEY = 1000  # characters
LONGEST_NAME = 512  # characters; a line of a program has 256


class Budget:
    """How many bytes one file may still unpack to, and how many opcodes it may still run.

    size: bytes of the file. A file and the programs inside it share one budget.
    """

    def __init__(self, size: int):
        self.bytes = GROWTH * size
        self.opcodes = MAX_OPCODES

    def spend(self, size: int) -> None:
        """Take `size` bytes from the budget; UnpicklingError if it does not have them."""
        self.bytes -= size
        if self.bytes < 0:
            raise UnpicklingError("unpacks to far more data than it holds")


@dataclass(frozen=True, eq=False)
class Blob:
    """A byte string of a pickle that is still in the file: `size` bytes from `start` on."""

    file: BufferedIOBase
    start: int
    size: int

    @contextmanager
    def opened(self) -> Iterator["Source"]:
        """Context that yields the bytes as a `Source`; afterwards the file is where it was."""
        position = self.file.tell()
        self.file.seek(self.start)
        yield Source(self.file, self.size)
        self.file.seek(position)


@dataclass
class Source:
    """The next `left` bytes of a file; asking for more raises EOFError and reserves no memory."""

    file: BufferedIOBase
    left: int

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        self._take(size)
        return self.file.read(size)

    def readline(self) -> bytes:
        """The bytes up to and including the next line feed, at most 256."""
        line = self.file.readline(min(self.left, 256))
        self._take(len(line))
        return line

    def readinto(self, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes."""
        self._take(len(buffer))
        if self.file.readinto(buffer) != len(buffer):
            raise EOFError("it ends too early")

    def blob(self, size: int) -> Blob:
        """Pass over the next `size` bytes and return where they are."""
        self._take(size)
        start = self.file.tell()
        self.file.seek(size, os.SEEK_CUR)
        return Blob(self.file, start, size)

    def _take(self, size: int) -> None:
        if not 0 <= size <= self.left:
            raise EOFError("it ends too early")
        self.left -= size

    def opcodes(self, budget: Budget) -> Iterator[tuple[str, Any]]:
        """(name, argument) of every instruction of a pickle program before STOP.

        Each is charged to `budget`. Raises UnpicklingError if the budget does not have it, and
        KeyError for a byte that is no opcode.
        """
        while (code := self.read(1)) != b".":
            budget.opcodes -= 1
            if budget.opcodes < 0:
                raise UnpicklingError("is a program far longer than that of any network")
            name, read_argument = READERS[code]
            if name in ("BINBYTES", "BINBYTES8"):
                width = 4 if name == "BINBYTES" else 8
                yield name, self.blob(int.from_bytes(self.read(width), "little"))
            else:
                yield name, read_argument and read_argument(self)


@dataclass(frozen=True)
class Global:
    """The name of a global in a pickle, as "module.name"; it stays a name and is not imported."""

    name: str


class Machine:
    """Runs one pickle program, with its stack and memo, and builds nothing but data.

    A subclass says in `calls` which names a program may use: name -> the function that builds what
    a call of the name would, with the machine before the program's arguments; None for a name that
    may be mentioned but not called. All else raises UnpicklingError; programs that make no sense
    raise other errors (see `airlib.checkpoints.unpickling.NONSENSE`).
    """

    calls: dict[str, Callable | None] = {}

    def __init__(self, source: Source, budget: Budget):
        self.source, self.budget = source, budget
        self.stack: list = []
        self.stacks_below_marks: list[list] = []
        self.memo: dict[int, object] = {}

    def run(self) -> Any:
        """Run the program to its end and return what it builds, of whatever type that is.

        The result has no cycles and is no deeper or larger than the data of a network.
        """
        for opcode, argument in self.source.opcodes(self.budget):
            if opcode in VALUES:
                self.stack.append(argument)
            elif opcode in INSTRUCTIONS:
                INSTRUCTIONS[opcode](self, argument)
            else:
                raise UnpicklingError(f"uses the pickle opcode {opcode}, which no network needs")
        result = self.stack.pop()
        check_finite(result)
        return result

    # -- what a subclass decides -------------------------------------------------------------------
    def build(self, target: object, state: Any) -> None:
        """Give the object `target` the state that the program has for it, in place."""
        raise UnpicklingError("sets the state of an object that has none")

    def persistent(self, identifier: Any) -> object:
        """The object outside of the program that a persistent id stands for."""
        raise UnpicklingError("refers to an object outside the file")

    # -- instructions ------------------------------------------------------------------------------
    def pop(self, count: int) -> list:
        """Take the top `count` objects from the stack, lowest first."""
        if len(self.stack) < count:
            raise IndexError("its stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list:
        """Take all objects above the latest mark from the stack, and the mark."""
        items, self.stack = self.stack, self.stacks_below_marks.pop()
        return items

    def mark(self) -> None:
        """Put a mark on the stack."""
        self.stacks_below_marks.append(self.stack)
        self.stack = []

    def push(self, value: object) -> None:
        """Put `value` on the stack."""
        self.stack.append(value)

    def remember(self, index: int) -> None:
        """Note the top of the stack in the memo under `index`."""
        self.memo[index] = self.stack[-1]

    def look_up(self, module: object, name: object) -> None:
        """Put the global MODULE.NAME on the stack, once both are known to be text of a line."""
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name is not text")
        if len(module) + len(name) > LONGEST_NAME:
            raise UnpicklingError("asks for a name longer than any")
        self.name(module, name)

    def name(self, module: str, name: str) -> None:
        """Put the global MODULE.NAME on the stack, if `calls` has it."""
        full_name = f"{module}.{name}"
        if full_name not in self.calls:
            raise UnpicklingError(f"asks for {full_name[:100]!r}, which no network needs")
        self.push(Global(full_name))

    def call(self) -> None:
        """Replace a global and a tuple of arguments on the stack by what the call builds."""
        function, arguments = self.pop(2)
        build = self.calls[function.name] if isinstance(function, Global) else None
        if build is None or not isinstance(arguments, tuple):
            raise UnpicklingError("calls something that is not a function")
        self.push(build(self, *arguments))

    def set_state(self) -> None:
        """Take a state from the stack and give it to the object below (`build`)."""
        (state,) = self.pop(1)
        self.build(self.stack[-1], state)

    def extend(self, items: list) -> None:
        """Add items to the container on the stack; keys and values in turn for a dictionary."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(key, items))
        elif isinstance(target, dict) and len(items) % 2 == 0:
            target.update(zip(map(key, items[::2]), items[1::2], strict=True))
        else:
            raise TypeError("adds items to something that is not a container")


def key(value: object) -> str | int:
    """Return `value` if it may be the key of a dictionary or an item of a set: text or a number.

    Raises UnpicklingError for all else: to hash a deeply nested tuple would overflow the C stack,
    numbers of 61 bits and more can all have the same hash, and a name longer than 1000 characters
    makes names of modules below it that fill the memory.
    """
    if isinstance(value, str) and len(value) <= LONGEST_KEY:
        return value
    if isinstance(value, int) and value.bit_length() < 61:
        return value
    raise UnpicklingError("uses a key that is neither a name nor a small number")


# Byte -> name of the opcode and how its argument is read.
READERS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    op.code.encode("latin-1"): (op.name, op.arg.reader if op.arg else None)
    for op in pickletools.opcodes
}
# Opcodes that push their argument, and what all others do. LONG4, for numbers of more than 255
# bytes, is missing: to calculate with such takes as long as a file likes.
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINBYTES"}
VALUES |= {"BINBYTES", "BINBYTES8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
VALUES |= {"SHORT_BINSTRING"}  # text of Python 2
INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "APPEND": lambda m, _: m.extend(m.pop(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.extend(m.pop(2)),
    "SETITEMS": lambda m, _: m.extend(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.pop_to_mark()),
    "BINPUT": lambda m, index: m.remember(index),
    "LONG_BINPUT": lambda m, index: m.remember(index),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": lambda m, name: m.look_up(*name.split(" ")),
    "STACK_GLOBAL": lambda m, _: m.look_up(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.set_state(),
    "BINPERSID": lambda m, _: m.push(m.persistent(*m.pop(1))),
}
