"""Random damage to honest files, and random programs: a result or one AirlibError, nothing else.

Mutations insert single opcodes and whole calls, of allowed names and of `os.system`.
"""

import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvlabs_pickles import pickled, pickled_tensorflow
from pickle_assembly import call, data, name, storage_bytes, text, value
from small_networks import small_generator

from airlib.checkpoints.nvlabs import read_nvlabs
from airlib.checkpoints.unpickling import read_pickle, read_torch
from airlib.errors import AirlibError

SENTINEL = Path(tempfile.gettempdir()) / f"airlib-sentinel-{os.getpid()}"
FUZZING = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def honest_files() -> list[bytes]:
    """Networks of a few kilobytes in three layouts, so that damage often hits the program."""
    network = small_generator(channel_base=32, channel_max=4, z_dim=4, w_dim=4)
    state, config = network.state_dict(), network.config_dict()
    small = {key: tensor for key, tensor in state.items() if tensor.numel() < 99}
    files = [pickled(small, config, protocol=protocol) for protocol in (2, 4)]
    return [*files, pickled_tensorflow(small, config)]


def saved_members() -> dict[str, bytes]:
    """The members of a small zip of torch.save."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(4.0)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


HONEST, SAVED = honest_files(), saved_members()
NAMES = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.storage._load_from_bytes",
    "torch.FloatStorage",
    "torch.Size",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "collections.OrderedDict",
    "builtins.set",
    "builtins.exec",
    "argparse.Namespace",
    "_codecs.encode",
    "dnnlib.util.EasyDict",
    "dnnlib.tflib.network.Network",
    "torch_utils.persistence._reconstruct_persistent_obj",
)
OBJECTS = [
    call("os.system", text(f"touch {SENTINEL}")),
    data(storage_bytes()),
    *(name(*known.rsplit(".", 1)) for known in NAMES),
    *map(text, ("latin1", "f4", "O", "<", "type", "class", "state", "storage", "0", "cpu", "")),
    *map(value, ((), (1,), 0, -1, 4, 1 << 70, {"a": 1}, [1], b"abcd", None, 0.5)),
]
OPCODES = [bytes([code]) for code in range(256)]
BUILDING = [b"(", b"t", b"R", b"b", b"\x81", b"\x85", b"\x86", b"\x87", b"q\x00", b"h\x00", b"\x94"]
BUILDING += [b"a", b"e", b"s", b"u", b"\x90", b"}", b"]", b")", b"\x8f", b"Q", b"\x93"]
PIECES = st.sampled_from(OBJECTS) | st.sampled_from(BUILDING) | st.sampled_from(OPCODES)
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), PIECES | st.binary(max_size=9), st.booleans()),
    min_size=1,
    max_size=8,
)


def mutated(content: bytes, mutations: list[tuple[float, bytes, bool]]) -> bytes:
    """At a fraction of its length, a piece overwrites what is there or is inserted."""
    content = bytearray(content)
    for place, piece, overwrite in mutations:
        at = int(place * len(content))
        content[at : at + len(piece) * overwrite] = piece
    return bytes(content)


def read_anyhow(content: bytes, directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(content)
    for read in (read_pickle, read_nvlabs, read_torch):
        try:
            read(path)
        except AirlibError as error:
            assert str(error).startswith(str(path))
    assert not SENTINEL.exists()


@pytest.mark.slow  # reads hundreds of damaged files
@FUZZING
@given(content=st.sampled_from(HONEST), mutations=MUTATIONS)
def test_damaged_networks_are_read_or_refused(content, mutations, tmp_path):
    read_anyhow(mutated(content, mutations), tmp_path)


@pytest.mark.slow  # reads hundreds of damaged files
@FUZZING
@given(pieces=st.lists(PIECES, max_size=60))
def test_random_programs_are_read_or_refused(pieces, tmp_path):
    read_anyhow(b"\x80\x04" + b"".join(pieces) + b".", tmp_path)


@pytest.mark.slow  # reads hundreds of damaged files
@FUZZING
@given(mutations=MUTATIONS)
def test_damaged_files_of_torch_are_read_or_refused(mutations, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in SAVED.items():
            is_program = member.endswith("data.pkl")
            archive.writestr(member, mutated(content, mutations) if is_program else content)
    read_anyhow(buffer.getvalue(), tmp_path)
