"""Pickles are read without running them: the corpus of hostile files, and honest data."""

import argparse
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import hostile_files
import numpy as np
import pytest
import torch
from budgets import outcomes
from pickle_assembly import call, storage_bytes, text, value
from pickle_assembly import name as named

from airlib.checkpoints.importing import import_file
from airlib.checkpoints.nvlabs import read_nvlabs
from airlib.checkpoints.unpickling import PersistentObject, read_pickle, read_torch
from airlib.errors import AirlibError

pytestmark = pytest.mark.slow  # reads a thousand hostile files

TESTS = Path(__file__).parent
READERS = (read_nvlabs, read_torch, import_file)


# --- the corpus ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the hostile files, and the path of their sentinel beside it."""
    directory = tmp_path_factory.mktemp("hostile")
    for name, content in hostile_files.files(directory.parent / "sentinel").items():
        (directory / name.replace("/", "-")).write_bytes(content)
    return directory


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In every test of this module the sentinel and the environment stay untouched."""
    environment = dict(os.environ)
    yield
    environment["PYTEST_CURRENT_TEST"] = os.environ.get("PYTEST_CURRENT_TEST", "")
    assert dict(os.environ) == environment
    assert not (tmp_path_factory.getbasetemp() / "sentinel").exists()


NAMES = sorted(hostile_files.files(Path("sentinel")))


def test_the_corpus_has_at_least_fifty_files_and_its_payloads_are_real(tmp_path):
    """Run by Python's own machine, a payload does what the tests look for."""
    assert len(NAMES) >= 50
    sentinel = tmp_path / "sentinel"
    payloads = hostile_files.files(sentinel)
    for name in ("os.system", "builtins.exec", "behind a list"):
        pickle.loads(payloads[name])
        assert sentinel.exists()
        sentinel.unlink()
    assert os.environ.pop(hostile_files.PROBE) == "ran"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_one_error_that_names_it(name, corpus):
    """And nothing is written. A file that hangs the reader runs into the time limit."""
    path, before = corpus / name, sorted(corpus.iterdir())
    for reader in READERS:
        with pytest.raises(AirlibError) as caught:
            reader(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message and "\x1b" not in message and len(message) < 1000
    assert sorted(corpus.iterdir()) == before


def test_reading_the_corpus_needs_little_memory(corpus):
    """In a process of its own, whose peak can be measured (Linux says it)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is only known on Linux")
    code = f"""
import json, re, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from airlib.checkpoints.nvlabs import read_nvlabs
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

before, refused = peak(), 0
for path in sorted(Path({str(corpus)!r}).iterdir()):
    for read in (read_nvlabs, read_torch):
        try:
            read(path)
        except AirlibError:
            refused += 1
print(json.dumps([refused, peak() - before]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused, grown = json.loads(run.stdout)
    assert refused == 2 * len(NAMES)
    assert grown < 128 * 2**20


READ_ALL = """
from airlib.checkpoints.nvlabs import read_nvlabs
from airlib.checkpoints.unpickling import read_torch
def read(path):
    try:
        read_nvlabs(path)
    except AirlibError:
        read_torch(path)
"""


def test_no_file_of_the_corpus_runs_over_the_budget(corpus):
    for name, outcome in outcomes(READ_ALL, sorted(corpus.iterdir())).items():
        assert outcome.startswith(str(corpus / name)), f"{name}: {outcome}"


def test_what_a_pickle_holds_twice_is_read_once(tmp_path):
    """Sharing is honest, as long as nothing contains itself."""
    shared = [1, [2]]
    (tmp_path / "file").write_bytes(pickle.dumps({"a": shared, "b": (shared, shared)}))
    read = read_pickle(tmp_path / "file")
    assert read == {"a": shared, "b": (shared, shared)} and read["a"] is read["b"][0]


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "loop", "directory", "pipe", "missing"):
        for reader in READERS:
            with pytest.raises(AirlibError, match=name):
                reader(tmp_path / name)


# --- honest files --------------------------------------------------------------------------------


def test_a_symlink_to_a_network_is_followed(tmp_path):
    (tmp_path / "network.pkl").write_bytes(hostile_files.pickled_network())
    (tmp_path / "link").symlink_to(tmp_path / "network.pkl")
    assert read_nvlabs(tmp_path / "link").kind == "stylegan2"


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_data_is_what_pickle_reads(protocol, tmp_path):
    data = {
        "numbers": [0, -1, 255, 70_000, -(2**40), 1 << 100, 1.5, float("inf"), True, None],
        "text": ["", "word", "\u0416\u00e9", "long " * 1000],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {3: "x"}, {"a", "b"}],
        "ordered": OrderedDict(b=1, a=2),
        "scalars": [np.float64(0.1), np.float32(0.1), np.int64(7), np.bool_(True)],
    }
    data["again"] = data["containers"]
    (tmp_path / "file").write_bytes(pickle.dumps(data, protocol))
    read = read_pickle(tmp_path / "file")
    assert read == data
    assert list(read["ordered"]) == ["b", "a"]
    assert read["again"] is read["containers"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
def test_arrays_are_what_numpy_reads(dtype, protocol, tmp_path):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = [array, np.asfortranarray(array), array[:, ::2], array[:0], array[0, 0, 0, None]]
    (tmp_path / "file").write_bytes(pickle.dumps(arrays, protocol))
    expected_arrays = pickle.loads((tmp_path / "file").read_bytes())
    for expected, read in zip(expected_arrays, read_pickle(tmp_path / "file"), strict=True):
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


TENSORS = {
    "contiguous": torch.arange(24.0).reshape(2, 3, 4),
    "view": torch.arange(24.0).reshape(4, 6)[1:, ::2],
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "half": torch.arange(5).half(),
    "brain": torch.arange(5).bfloat16(),
    "integers": torch.arange(5),
    "flags": torch.tensor([True, False]),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def assert_same_tensors(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_are_what_torch_reads(protocol, tmp_path):
    (tmp_path / "file").write_bytes(pickle.dumps(TENSORS, protocol))
    assert_same_tensors(read_pickle(tmp_path / "file"), TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_are_what_torch_reads(zipped, tmp_path):
    shared = torch.arange(10.0)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.0, 0.99))
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "tensors": TENSORS,
        "shared": [shared, shared[3:]],
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(size=256, lr=0.002, augment=True, name="run"),
        "size": torch.Size([1, 2]),
    }
    torch.save(saved, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    read = read_torch(tmp_path / "file")
    with torch.serialization.safe_globals([argparse.Namespace]):
        expected = torch.load(tmp_path / "file", weights_only=True)
    for name in ("tensors", "network"):
        assert_same_tensors(read[name], expected[name])
    assert read["args"] == expected["args"] == saved["args"]
    assert read["size"] == (1, 2)
    read["shared"][0][3] = 99
    assert read["shared"][1][0] == 99  # one storage, as before
    assert read["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    assert_same_tensors(read["optimizer"]["state"][0], expected["optimizer"]["state"][0])


LPIPS = [f"v{version}/{net}.pth" for version in (0.0, 0.1) for net in ("alex", "vgg", "squeeze")]


@pytest.mark.parametrize("name", LPIPS)
def test_files_of_python_2_are_what_torch_reads(name):
    """Those that the package `lpips` brings; v0.0 is of a torch before 0.4."""
    path = metadata.distribution("lpips").locate_file(f"lpips/weights/{name}")
    assert_same_tensors(read_torch(path), torch.load(path, "cpu", weights_only=True))


def test_a_parameter_of_torch_before_0_4_is_what_torch_reads(tmp_path):
    """An object with arguments and a state, not yet a call of `_rebuild_parameter`."""
    numbers = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
    numbers += value(4) + b"NtQ"
    state = value((True, False, {}))  # to be trained, not volatile, no hooks
    arguments = call("torch._utils._rebuild_tensor", numbers, *map(value, (0, (2, 2), (2, 1))))
    parameter = named("torch.nn.parameter", "Parameter") + arguments + b"\x85\x81" + state + b"b"
    path = tmp_path / "old.pth"
    path.write_bytes(storage_bytes(4, identifier=b"}" + text("weight") + parameter + b"s"))
    assert_same_tensors(read_torch(path), torch.load(path, weights_only=True))


def test_what_is_called_an_object_stays_data(tmp_path):
    (tmp_path / "file").write_bytes(hostile_files.pickled_network())
    generator = read_pickle(tmp_path / "file")["G_ema"]
    assert type(generator) is PersistentObject
    assert (generator.class_name, generator.version) == ("Generator", 6)
    assert type(generator.state) is dict
    assert "dnnlib" not in sys.modules and "torch_utils" not in sys.modules


def test_errors_say_what_to_do(tmp_path, corpus):
    with pytest.raises(AirlibError, match=r"asks for 'os\.system'.*Nothing in it was executed"):
        read_pickle(corpus / "os.system")
    with pytest.raises(AirlibError, match="encrypted zip; decrypt it"):
        read_torch(corpus / "torch: encrypted")
    with pytest.raises(AirlibError, match="compressed zip; extract it"):
        read_torch(corpus / "torch: compressed bomb")
    with pytest.raises(AirlibError, match="empty; download it again"):
        read_torch(corpus / "empty")
