"""Small text files of any content end in a value that can be written again, or in one error."""

import json
import os

import pytest

from airlib.documents import read_json, read_text, read_toml, wrong_entry
from airlib.errors import AirlibError

WRONG_JSON = {
    "deep": (b"[" * 100_000, "more than 100 lists or tables in one another"),
    "deep and whole": (b"[" * 101 + b"]" * 101, "more than 100 lists or tables in one another"),
    "nan": (b"[NaN]", "NaN is not a finite number"),
    "infinite": (b"[-1e999]", "-1e999 is not a finite number"),
    "twice": (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
    "large integer": (b"[18446744073709551616]", "an integer has more than 64 bits"),
    "very large integer": (b"1" + b"0" * 5000, "4300 digits"),
    "half a character": (b'{"\\ud800": 1}', "a text holds half a character"),
    "cut off": (b'{"a": [1,', "Expecting value"),
    "binary": (b"\xff\x00\xfe", "is no text in UTF-8"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize(("content", "message"), WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_wrong_json_is_one_line_with_the_advice(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(AirlibError) as caught:
        read_json(path, "make it again")
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert str(caught.value).endswith("; make it again") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, [], {"a": [1.5, True, "ä"]}, [[[[[[2**64 - 1]]]]]]])
def test_what_is_json_is_read(tmp_path, value):
    text = "\ufeff" + json.dumps(value)  # with a mark at the start, as Windows writes it
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "x.json", "") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = " + "[\n" * 5000, "more than 100 lists or tables in one another"),
        ("a" + ".a" * 20_000 + " = 1", "a line has more than 2000 characters"),
        ("a = 0x" + "f" * 17, "an integer has more than 64 bits"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        ("# long\n" * 20_000, "has more than the 131,072 bytes of such a file"),
    ],
)
def test_wrong_toml_is_one_line_with_the_advice(tmp_path, content, message):
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(AirlibError, match=message) as caught:
        read_toml(tmp_path / "x.toml", "make it again")
    assert str(caught.value).endswith("; make it again") and "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    for path, message in {
        tmp_path / "pipe": "is no regular file",
        "/dev/zero": "is no regular file",
        tmp_path: "is a folder",
        tmp_path / "missing": "there is no file",
        tmp_path / "missing" / "deeper": "there is no file",
        "a\0b": "null byte",
        "x" * 5000: "File name too long",
        tmp_path / "sparse": "has more than the 16,777,216 bytes",
    }.items():
        with pytest.raises(AirlibError, match=message) as caught:
            read_text(path, "name another")
        assert str(caught.value).endswith("; name another")


def test_the_entry_of_another_type_is_named():
    kinds = {"a": int, "b": {"c": str, "d": dict}}
    for fine in ({}, {"a": 3, "other": None}, {"b": {"c": "x", "d": {}}}):
        assert wrong_entry(fine, kinds) == ""
    for wrong, message in (
        (None, "it is no table"),
        ([], "it is no table"),
        ({"a": "3"}, "a is no int"),
        ({"b": []}, "b is no table"),
        ({"b": {"d": None}}, "d is no dict"),
    ):
        assert wrong_entry(wrong, kinds) == message
