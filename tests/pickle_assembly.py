"""Pickles put together opcode by opcode: what Python's pickler would refuse to write.

Every function returns opcodes (bytes) that leave one object on the stack; `program` makes a file.
"""

import pickle
import struct


def value(data: object) -> bytes:
    """The opcodes that push plain data."""
    return pickle.dumps(data, 2)[2:-1]


def text(data: str) -> bytes:
    """Opcodes of a string, without its place in the memo."""
    return b"X" + struct.pack("<I", len(data.encode())) + data.encode()


def data(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    return name(*function.rsplit(".", 1)) + b"(" + b"".join(arguments) + b"tR"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def network(state: bytes, **meta: bytes) -> bytes:
    """A persistent object whose state is made by the opcodes `state`."""
    fields = {"type": text("class"), "version": b"K\x06", "class_name": text("Generator")}
    fields |= {"module_src": text(""), "state": state} | meta
    items = b"".join(text(key) + code for key, code in fields.items())
    return call("torch_utils.persistence._reconstruct_persistent_obj", b"}(" + items + b"u")


def file(generator: bytes) -> bytes:
    """A pickle of {"G_ema": generator}."""
    return program(b"}" + text("G_ema") + generator + b"s")


def parameter(tensor: bytes) -> bytes:
    """A file whose generator has one parameter, made by the opcodes `tensor`."""
    return file(network(b"}" + text("_parameters") + b"}" + text("weight") + tensor + b"ss"))


def tensor(storage: bytes, offset: object, size: object, stride: object) -> bytes:
    arguments = (storage, *map(value, (offset, size, stride)), b"\x89", b"N")
    return call("torch._utils._rebuild_tensor_v2", *arguments)


def storage_bytes(count: int = 4, declared: int | None = None, identifier: bytes = b"") -> bytes:
    """The bytes of a float storage; `declared` numbers are announced."""
    declared = count if declared is None else declared
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = (0x1950A86A20F9469CFC6C, 1001, system)
    number = b"\x8a\x08" + struct.pack("<q", declared)
    identifier = (
        identifier
        or b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + number
        + b"NtQ"
    )
    parts = [*(program(value(part)) for part in head), program(identifier), program(value(["0"]))]
    return b"".join(parts) + struct.pack("<q", declared) + bytes(4 * count)


def storage(*arguments: object, **options: object) -> bytes:
    return call("torch.storage._load_from_bytes", data(storage_bytes(*arguments, **options)))
