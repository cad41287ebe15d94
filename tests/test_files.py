"""Files are whole or absent, and reading one executes nothing."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch

from airlib.errors import AirlibError
from airlib.files import LONGEST_HEADER, load_tensors, save_tensors, write_atomically, write_json

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "h": torch.ones(4).half()}


def test_tensors_and_configuration_come_back_bit_for_bit(tmp_path):
    config = {"steps": 3, "text": 'ä\n"', "nested": {"list": [1.5, None, True]}}
    path = save_tensors(tmp_path / "new" / "folder" / "x.safetensors", TENSORS, config)
    tensors, read = load_tensors(path)
    assert read == config and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_views_and_shared_storage_can_be_saved(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    path = save_tensors(tmp_path / "x.safetensors", {"all": base, "columns": base.T[1:]}, {})
    assert torch.equal(load_tensors(path)[0]["columns"], base.T[1:])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("boom")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the new")
        raise error

    expected = AirlibError if isinstance(error, OSError) else ValueError
    with pytest.raises(expected):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_appears_only_when_complete(tmp_path):
    path, seen = tmp_path / "x.txt", []

    def write(temporary: Path) -> None:
        temporary.write_text("first half, ")
        seen.append(path.exists())
        temporary.write_text("both halves")

    assert write_atomically(path, write).read_text() == "both halves"
    assert seen == [False] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(tmp_path, value):
    for write in (
        lambda: write_json(tmp_path / "x.json", {"value": value}),
        lambda: save_tensors(tmp_path / "x.safetensors", TENSORS, {"value": value}),
    ):
        with pytest.raises(ValueError, match="JSON"):
            write()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_directory(tmp_path):
    (tmp_path / "results").write_text("a file")
    for path in ("results/x.json", "results/deeper/x.json"):
        with pytest.raises(AirlibError, match="choose a writable directory"):
            write_json(tmp_path / path, {})
    assert (tmp_path / "results").read_text() == "a file"


def test_a_directory_in_the_way_of_a_file(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(AirlibError, match=r"cannot write .*x\.json"):
        write_json(tmp_path / "x.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(AirlibError, match="no such file"):
        load_tensors(tmp_path / "x.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(AirlibError, match="no such file"):
        load_tensors(tmp_path / "absent.safetensors")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = save_tensors(tmp_path / "x.safetensors", TENSORS, {"a": 1}).read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in (0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(AirlibError, match="damaged or not an airlib file"):
            load_tensors(cut)


def test_a_pickle_under_a_safe_name_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    for name, write in (
        ("plain", lambda path: path.write_bytes(pickle.dumps(Trap()))),
        ("torch", lambda path: torch.save({"weight": torch.ones(2)}, path)),
    ):
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(AirlibError, match="damaged or not an airlib file"):
            load_tensors(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b'{"__metadata__": {"config": "not json"}}',
        b'{"__metadata__": {"other": "{}"}}',
        b'{"a": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4000000]}}',
        b"[1, 2]",
        b'{"__metadata__": {"config": "' + b"[" * 100_000 + b'"}}',
        b'{"__metadata__": {"config": "null"}}',
        b'{"__metadata__": {"config": "[3]"}}',
        b'{"__metadata__": {"config": "{}"}}' + b" " * LONGEST_HEADER,
    ],
)
def test_hostile_headers_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(AirlibError, match="damaged or not an airlib file"):
        load_tensors(path)
    path.write_bytes(struct.pack("<Q", 1 << 62) + header)
    with pytest.raises(AirlibError, match="damaged or not an airlib file"):
        load_tensors(path)


def test_names_cannot_write_to_the_terminal(tmp_path):
    """Escape codes, line breaks and characters that turn the direction appear as text."""
    for name, shown in (
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nairlib: verified", r"a\nairlib: verified"),
        ("\u202egnp", r"\u202egnp"),
        ("\udcff", r"\udcff"),
        ("schöne Bilder 写真", "schöne Bilder 写真"),
    ):
        with pytest.raises(AirlibError) as caught:
            load_tensors(tmp_path / name)
        assert f"no such file: {tmp_path}/{shown};" in str(caught.value)
        assert str(caught.value).isprintable()


def test_a_name_with_a_nul_is_one_error(tmp_path):
    with pytest.raises(AirlibError, match=r"no such file: .*\\x00"):
        load_tensors(tmp_path / "a\0b")
    with pytest.raises(AirlibError, match="null byte; choose a writable directory"):
        write_json(tmp_path / "a\0b", {})
