"""Files that try to run code, exhaust memory or time, or are simply broken.

`files(sentinel)` maps a name to the bytes of a file. Whatever of it runs creates the file
`sentinel` or sets the environment variable PROBE.
"""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import torch
from hostile_sizes import zip_of
from nvlabs_pickles import pickled, pickled_tensorflow
from pickle_assembly import (
    call,
    data,
    file,
    name,
    network,
    parameter,
    program,
    storage,
    storage_bytes,
    tensor,
    text,
    value,
)
from small_networks import small_generator

PROBE = "AIRLIB_HOSTILE_PROBE"
MEGABYTE = 2**20
DEEP = 150_000  # the hash of a tuple nested so deep overflows the C stack


def files(sentinel: Path) -> dict[str, bytes]:
    """Name -> content; none of them is a network."""
    python = f"open({str(sentinel)!r}, 'w').close(); import os; os.environ[{PROBE!r}] = 'ran'"
    shell = f"touch {sentinel}"
    return {
        **foreign_calls(python, shell, sentinel),
        **hidden_calls(python, shell),
        **allowed_names(python),
        **exhausting(),
        **broken(),
        **torch_files(shell),
    }


def foreign_calls(python: str, shell: str, sentinel: Path) -> dict[str, bytes]:
    """Calls of names that no network needs, by every opcode that can call."""
    source, command = text(python), text(shell)
    simple = {
        "builtins.eval": call("builtins.eval", text(f"exec({python!r})")),
        "builtins.exec": call("builtins.exec", source),
        "python 2 eval": call("__builtin__.eval", text(f"exec({python!r})")),
        "builtins.__import__": call("builtins.__import__", text("os")),
        "builtins.open": call("builtins.open", text(str(sentinel)), text("w")),
        "builtins.compile": call("builtins.compile", source, text("x"), text("exec")),
        "builtins.getattr": call("builtins.getattr", name("os", "path"), text("os")),
        "builtins.map": call("builtins.map", name("os", "system"), value([shell])),
        "builtins.type": call("builtins.type", text("X"), b")", b"}"),
        "os.system": call("os.system", command),
        "posix.system": call("posix.system", command),
        "os.popen": call("os.popen", command),
        "os.execv": call("os.execv", text("/usr/bin/touch"), value(["touch", str(sentinel)])),
        "os.mkdir": call("os.mkdir", text(str(sentinel))),
        "os.putenv": call("os.putenv", text(PROBE), text("ran")),
        "subprocess.Popen": call("subprocess.Popen", value(["touch", str(sentinel)])),
        "subprocess.run": call("subprocess.run", value(["touch", str(sentinel)])),
        "pty.spawn": call("pty.spawn", value(["touch", str(sentinel)])),
        "importlib": call("importlib.import_module", text("antigravity")),
        "runpy": call("runpy.run_path", text(str(sentinel))),
        "timeit": call("timeit.timeit", source),
        "ctypes": call("ctypes.CDLL", b"N"),
        "pickle.loads": call("pickle.loads", data(program(call("os.system", command)))),
        "marshal.loads": call("marshal.loads", data(b"c")),
        "torch.load": call("torch.load", text(str(sentinel))),
        "torch.hub": call("torch.hub.load", text(str(sentinel)), text("model")),
        "numpy.load": call("numpy.load", text(str(sentinel)), b"N", b"\x88"),
        "functools.partial": call("functools.partial", name("os", "system"), command),
        "operator.methodcaller": call("operator.methodcaller", text("system"), command),
        "copyreg": call("copyreg._reconstructor", name("builtins", "object"), b"N", b"N"),
        "types.FunctionType": name("types", "FunctionType") + b")R",
        "new object": name("subprocess", "Popen") + b"(" + value([shell]) + b"t\x81",
        "new object with keywords": name("subprocess", "Popen") + b")" + b"}" + b"\x92",
        "stack global": text("os") + text("system") + b"\x93(" + command + b"tR",
        "inst opcode": b"(" + command + b"ios\nsystem\n",
        "obj opcode": b"(" + name("os", "system") + command + b"o",
        "extension registry": b"\x82\x01(" + command + b"tR",
        "persistent id": command + b"Q",
        "text persistent id": b"Pos.system\n",
        "dotted name": text("collections") + text("OrderedDict.update.__globals__") + b"\x93",
        "name that is no text": value(["os"]) + text("system") + b"\x93",
        "control characters in a name": name("os\x1b[2J", "system"),
    }
    texts = {"protocol 0": b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR."}
    return {key: program(body) for key, body in simple.items()} | texts


def hidden_calls(python: str, shell: str) -> dict[str, bytes]:
    """A call inside something that is allowed."""
    attack = call("os.system", text(shell))
    method = call("builtins.getattr", name("collections", "OrderedDict"), text("update"))
    return {
        "in the state of a network": file(network(attack)),
        "in the source of a network": file(network(b"}", module_src=text(python))),
        "as a parameter": parameter(attack),
        "as a storage": parameter(tensor(attack, 0, (4,), (1,))),
        "in a storage": parameter(tensor(storage(identifier=attack), 0, (4,), (1,))),
        "torch file in a storage": parameter(tensor(storage_program(attack), 0, (4,), (1,))),
        "hook of a tensor": parameter(call("torch._utils._rebuild_parameter", attack, b"\x88N")),
        "in an unused network": program(b"}(" + text("D") + attack + text("G_ema") + b"Nu"),
        "behind a list": program(b"](" + attack * 3 + b"e"),
        "as a key": program(b"}" + attack + b"Ns"),
        "as arguments": program(name("collections", "OrderedDict") + attack + b"R"),
        "as a method": program(method + b"(" + value({"x": 1}) + b"tR"),
        "as a state": program(call("dnnlib.tflib.network.Network") + attack + b"b"),
        "in the memo": program(name("os", "system") + b"q\x000h\x00(" + text(shell) + b"tR"),
        "after a good start": pickled_network()[:-1] + attack + b".",
    }


def storage_program(body: bytes) -> bytes:
    return call("torch.storage._load_from_bytes", data(program(body)))


def allowed_names(python: str) -> dict[str, bytes]:
    """Allowed names with arguments or states they must not take."""
    dtype, array = call("numpy.dtype", text("f4")), "numpy.core.multiarray._reconstruct"
    empty = call(array, name("numpy", "ndarray"), value((0,)), text("b"))
    network_class = name("dnnlib.tflib.network", "Network")
    slots = b"N" + b"}" + text("__init__") + text(python) + b"s\x86b"
    reconstruct = "torch_utils.persistence._reconstruct_persistent_obj"

    def with_state(*state: bytes) -> bytes:
        return parameter(empty + b"(" + b"".join(state) + b"tb")

    float_state = (b"K\x01", value((2,)), dtype, b"\x89")
    return {
        "object of an integer": file(call(reconstruct, b"K\x01")),
        "object without arguments": file(call(reconstruct)),
        "object of another type": file(network(b"}", type=text("function"))),
        "object of no class": file(network(b"}", class_name=b"N")),
        "object with a list as state": file(network(b"]")),
        "state of a class": program(network_class + slots),
        "state of a function": program(name("_codecs", "encode") + slots),
        "state of a string": program(text("a") + value({"x": 1}) + b"b"),
        "state of a network is text": program(call("dnnlib.tflib.network.Network") + b"K\x01b"),
        "call of a result": program(call("collections.OrderedDict") + b")R"),
        "call of an array class": program(name("numpy", "ndarray") + value((1 << 40,)) + b"R"),
        "dictionary of a number": program(call("collections.OrderedDict", b"K\x01")),
        "dictionary of lists": program(call("collections.OrderedDict", value([([], 1)]))),
        "set of a number": program(call("builtins.set", b"K\x01")),
        "bytes of a number": program(call("__builtin__.bytes", value(1 << 40))),
        "set of lists": program(call("builtins.set", value([[1]]))),
        "rot13": program(call("_codecs.encode", text(python), text("rot13"))),
        "zip codec": program(call("_codecs.encode", data(b"x"), text("zlib"))),
        "encoding of no text": program(call("_codecs.encode", b"K\x01", text("latin1"))),
        "text beyond latin1": program(call("_codecs.encode", text("\u0416"), text("latin1"))),
        "storage of text": parameter(call("torch.storage._load_from_bytes", text("abc"))),
        "storage of nothing": parameter(call("torch.storage._load_from_bytes", data(b""))),
        "storage of a list": parameter(storage(identifier=value([1, 2]))),
        "storage of a zip": parameter(call("torch.storage._load_from_bytes", data(bomb()))),
        "tensor of a list": parameter(tensor(value([1.0]), 0, (1,), (1,))),
        "tensor beyond its storage": parameter(tensor(storage(), 1, (4,), (1,))),
        "tensor before its storage": parameter(tensor(storage(), -1, (1,), (1,))),
        "tensor of negative strides": parameter(tensor(storage(), 3, (4,), (-1,))),
        "tensor larger than its storage": parameter(tensor(storage(), 0, (1 << 40,), (0,))),
        "tensor of overflowing size": parameter(tensor(storage(), 0, (1 << 62, 8), (0, 0))),
        "tensor of text size": parameter(tensor(storage(), 0, "4", "1")),
        "tensor of many dimensions": parameter(tensor(storage(), 0, (1,) * 99, (1,) * 99)),
        "parameter of text": parameter(call("torch._utils._rebuild_parameter", text("x"))),
        "object dtype": parameter(call("numpy.dtype", text("O8"))),
        "void dtype": parameter(call("numpy.dtype", text("V16"))),
        "dtype with fields": parameter(
            dtype + value((3, "<", None, ("x",), {"x": 1}, 4, 4, 0)) + b"b"
        ),
        "scalar of objects": parameter(
            call("numpy.core.multiarray.scalar", call("numpy.dtype", text("O")), data(b"x"))
        ),
        "scalar of many": parameter(call("numpy.core.multiarray.scalar", dtype, data(bytes(8)))),
        "array of objects": with_state(b"K\x01", value((1,)), b"N", b"\x89", value([python])),
        "array of another length": with_state(*float_state, data(bytes(4))),
        "array of half numbers": with_state(*float_state, data(bytes(7))),
        "huge array": with_state(b"K\x01", value((1 << 40,)), dtype, b"\x89", data(bytes(8))),
        "negative array": with_state(b"K\x01", value((-2, -1)), dtype, b"\x89", data(bytes(8))),
    }


def exhausting() -> dict[str, bytes]:
    """Small files that announce or build something large, or never end."""
    encode = call("_codecs.encode", b"h\x00", text("latin1"))
    load = call("torch.storage._load_from_bytes", b"h\x00")
    copy = call("builtins.set", b"h\x00")
    deep = b")" + b"\x85" * DEEP
    doubling = b"]q\x00"
    for i in range(60):
        doubling += b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1])
    nameless = b"}q\x01" + text("_modules") + b"}" + text("") + network(b"h\x01") + b"ss"
    entries = b"}q\x00(" + b"".join(text(f"k{i}") + b"N" for i in range(60_000)) + b"u"
    long_number = b"\x8b" + struct.pack("<i", 500_000) + b"\x01" * 500_000
    numbers = b"(" + value(1 << 2000) + b"q\x09" + b"h\x09" * 200_000 + b"t"
    own_child = b"}q\x01" + text("_modules") + b"}" + text("x") + network(b"h\x01") + b"ss"
    ten = b"(" + b"".join(text(letter) + b"h\x02" for letter in "abcdefghij") + b"u"
    tree = b"".join(
        network(b"}" + text("_modules") + b"}" + (ten if level else b"") + b"s") + b"q\x02"
        for level in range(30)
    )
    return {
        "deep list": program(b"]" * DEEP + b"a" * (DEEP - 1)),
        "deep dictionary": program(b"}" + b"K\x00}" * DEEP + b"s" * DEEP),
        "deep tuple as key": program(b"}" + deep + b"Ns"),
        "deep tuple in a set": program(call("builtins.set", b"]" + deep + b"a")),
        "deep tuple as size": parameter(
            call("torch._utils._rebuild_tensor_v2", storage(), b"K\x00", deep, deep, b"\x89N")
        ),
        "deep tuple as name": program(deep + text("system") + b"\x93"),
        "deep tuple as dtype": program(call("numpy.dtype", deep)),
        "doubled list as size": parameter(
            call("torch._utils._rebuild_tensor_v2", storage(), b"K\x00", doubling, b")", b"\x89N")
        ),
        "doubled list as dtype": program(call("numpy.dtype", doubling)),
        "doubled list as class": file(network(b"}", class_name=doubling)),
        "doubled list as network": file(doubling),
        "doubled list as argument": file(
            network(b"}(" + text("_init_kwargs") + b"}" + text("z_dim") + doubling + b"su")
        ),
        "bytes of 4 exabytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        "bytes of 4 gigabytes": b"\x80\x03B" + b"\xff" * 4 + b"x.",
        "text of 4 exabytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
        "text of negative length": b"\x80\x04\x8d" + b"\xff" * 8 + b"x.",
        "number of 2 gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "number of negative length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
        "frame of 4 exabytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        "name without end": b"\x80\x02c" + b"a" * MEGABYTE,
        "encoded again and again": program(text("a" * MEGABYTE) + b"q\x00" + encode * 3000),
        "storage again and again": program(
            data(storage_bytes(MEGABYTE // 4)) + b"q\x00" + load * 3000
        ),
        "copied again and again": program(b"](" + b"K\x01" * 99_999 + b"eq\x00" + copy * 3000),
        "storage announces 4 exabytes": parameter(storage(declared=1 << 60)),
        "storage announces a negative length": parameter(storage(declared=-4)),
        "storage announces more": parameter(storage(declared=5)),
        "storage announces less": parameter(storage(declared=3)),
        "endless program": program(b"N" * MEGABYTE),
        "nothing in the memo": program(b"h\x07"),
        "far memo": program(b"Nr\xff\xff\xff\xff"),
        "list in itself": file(b"]q\x00h\x00a"),
        "module in itself": file(network(own_child)),
        "module in itself without a name": file(network(nameless)),
        "keys of one hash": program(b"}(" + _colliding(b"N", 100_000) + b"u"),
        "items of one hash": program(b"\x8f(" + _colliding(b"", 200_000) + b"\x90"),
        "key of a long number": program(b"}" + value(1 << 2000) + b"Ns"),
        "key of a megabyte": program(b"}" + text("a" * MEGABYTE) + b"Ns"),
        "name of a megabyte": program(text("a" * MEGABYTE) + text("b") + b"\x93"),
        "size of long numbers": parameter(
            call("torch._utils._rebuild_tensor_v2", storage(), b"K\x00", numbers, numbers, b"\x89N")
        ),
        "size of a number of half a megabyte": parameter(
            tensor(storage(), 0, (1,), (1,)).replace(value((1,)), b"(" + long_number + b"t")
        ),
        "array of many long numbers": _array_of(numbers),
        "array of huge counts": _array_of(value((1 << 70, 0))),
        "strides of huge counts": parameter(tensor(storage(), 0, (1, 1), (1 << 62, 1 << 62))),
        "state again and again": program(
            entries + call("dnnlib.tflib.network.Network") + b"h\x00b" * 100_000
        ),
        "tree of ten to the thirty modules": program(
            b"}(" + text("x") + b"](" + tree + b"e" + text("G_ema") + b"h\x02u"
        ),
        "missing mark": program(b"NNNt"),
        "empty stack": program(b"R"),
        "second stop": program(b"."),
    }


def _colliding(value_code: bytes, count: int) -> bytes:
    """Numbers that all have the hash 0, each followed by `value_code`."""
    return b"".join(value(i * (2**61 - 1)) + value_code for i in range(count))


def _array_of(shape: bytes) -> bytes:
    """A file with a numpy array of the shape that some opcodes make."""
    empty = call(
        "numpy.core.multiarray._reconstruct", name("numpy", "ndarray"), value((0,)), text("b")
    )
    dtype = call("numpy.dtype", text("f4"))
    return parameter(empty + b"(K\x01" + shape + dtype + b"\x89" + data(bytes(8)) + b"tb")


def pickled_network(**changes: object) -> bytes:
    generator = small_generator()
    return pickled(generator.state_dict(), generator.config_dict(), **changes)


def broken() -> dict[str, bytes]:
    """Honest files that are not, or no longer, networks we can read."""
    whole = pickled_network()
    generator = small_generator()
    tensorflow = pickled_tensorflow(generator.state_dict(), generator.config_dict())
    cuts = {f"cut at {p:.0%}": whole[: int(p * len(whole))] for p in (0.01, 0.1, 0.5, 0.99)}
    cuts |= {f"cut after {n} bytes": whole[:n] for n in (1, 2, 3, 40)}
    cuts |= {f"cut by {n} bytes": whole[:-n] for n in (1, 2, 3, 40)}
    half = len(tensorflow) // 2
    cuts |= {"TensorFlow cut in two": tensorflow[:half], "second half": tensorflow[half:]}
    return cuts | {
        "empty": b"",
        "gzip": gzip.compress(whole),
        "text": b"hello, this is no network\n" * 9,
        "web page": b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "zeros": bytes(9999),
        "noise": torch.arange(9999).mul(2654435761).to(torch.uint8).numpy().tobytes(),
        "plain dictionary": pickle.dumps({"a": 1}),
        "plain list": pickle.dumps([1, 2], 4),
        "none": pickle.dumps(None, 2),
        "no generator": pickle.dumps({"G_ema": None, "D": None}, 4),
        "a triple of nothing": pickle.dumps((None, None, None), 4),
    }


# --- files of torch.save -------------------------------------------------------------------------


def archive(body: bytes, storages: dict[str, bytes] | None = None, **options: int) -> bytes:
    """A zip of torch.save with the program `body`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as zipped:
        zipped.writestr("archive/data.pkl", program(body))
        zipped.writestr("archive/version", "3")
        for key, content in (storages or {}).items():
            zipped.writestr(f"archive/data/{key}", content)
    return buffer.getvalue()


def bomb() -> bytes:
    """A zip that unpacks to a thousand times its size."""
    zeros = {"0": bytes(16 * MEGABYTE)}
    return archive(b"N", zeros, compression=zipfile.ZIP_DEFLATED, compresslevel=9)


def encrypted(content: bytes) -> bytes:
    """The same zip with the flag of encryption set in every header."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            at = start + offset
            content = content[:at] + bytes([content[at] | 1]) + content[at + 1 :]
            start = content.find(signature, start + 4)
    return content


def torch_files(shell: str) -> dict[str, bytes]:
    attack = call("os.system", text(shell))
    identifier = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
    tarred, saved = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("pickle"))
    torch.save({"a": torch.arange(64.0)}, saved)
    whole, deep = saved.getvalue(), b"})" + b"\x85" * DEEP + b"Ns"
    huge = b"J\x00\x00\x00\x40NtQ"
    elsewhere = identifier.replace(text("0"), text("../../x"))
    return {
        "torch: os.system": archive(attack),
        "torch: os.system as a storage": archive(tensor(attack, 0, (4,), (1,))),
        "torch: os.system before 1.6": storage_bytes(identifier=attack),
        "torch: reduce by a namespace": archive(call("argparse.Namespace", value({"a": 1}))),
        "torch: deep tuple as key": archive(deep),
        "torch: zip of a million members": zip_of(1_000_000),
        "torch: one storage as many tensors": _shared(),
        "torch: deep tuple as key before 1.6": storage_bytes(identifier=deep),
        "torch: declares 4 gigabytes": archive(identifier + huge, {"0": bytes(16)}),
        "torch: missing storage": archive(identifier + b"K\x04NtQ"),
        "torch: storage elsewhere": archive(elsewhere + b"K\x04NtQ"),
        "torch: tensor beyond its storage": archive(
            tensor(identifier + b"K\x04tQ", 1, (4,), (1,)), {"0": bytes(16)}
        ),
        "torch: declares 4 gigabytes before 1.6": storage_bytes(declared=1 << 30),
        "torch: compressed bomb": bomb(),
        "torch: encrypted": encrypted(whole),
        "torch: tar": tarred.getvalue(),
        "torch: no program": zip_of_nothing(),
        "torch: two programs": two_programs(),
        **{f"torch: cut at {p:.1%}": whole[: int(p * len(whole))] for p in (0.1, 0.5, 0.9, 0.999)},
    }


def _shared() -> bytes:
    """A hundred tensors over one storage: whoever copies them has a hundred times its size."""
    count = 2**18
    numbers = b"(" + text("storage") + name("torch", "HalfStorage") + text("0") + text("cpu")
    shared = tensor(numbers + value(count) + b"NtQ", 0, (count,), (1,))
    return archive(b"](" + shared * 100 + b"e", {"0": bytes(2 * count)})


def zip_of_nothing() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("readme.txt", "nothing")
    return buffer.getvalue()


def two_programs() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for folder in "ab":
            zipped.writestr(f"{folder}/data.pkl", program(b"N"))
    return buffer.getvalue()
