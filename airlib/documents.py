"""Small text files from anywhere, read within limits: JSON and TOML that cannot hang or eat memory.

    content = read_json(path, "run its notebook again")
    values = read_toml(path, "name another file")

Only regular files are opened, their size is looked at first, and whatever is wrong with one is an
AirlibError of one sentence that ends with the advice given here. What comes back can be walked,
compared and written again: it is not nested deeply, its integers fit in 64 bits, its texts are
Unicode, and JSON has neither NaN nor the same key twice.
"""

import json
import math
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from airlib.errors import AirlibError

LARGEST_JSON = 2**24  # bytes; the largest that airlib writes has 1.2 MB
LARGEST_TOML = 2**17  # bytes; the largest that is shipped has 14 kB
LONGEST_LINE = 2000  # characters of TOML: a key with n dots takes n * n steps
DEEPEST = 100  # containers in one another
INTEGERS = range(-(2**63), 2**64)
TOO_DEEP = f"more than {DEEPEST} lists or tables in one another"


def read_json(path: str | Path, advice: str, largest: int = LARGEST_JSON) -> Any:
    """The value in a JSON file of at most `largest` bytes.

    advice: what to do about a bad one, such as "delete it".

    Raises AirlibError if the file is missing, no regular file, too large, or no JSON of finite
    numbers and unique keys.
    """
    text = read_text(path, advice, largest)
    try:
        return parse_json(text)
    except ValueError as error:
        raise AirlibError(f"{path} is damaged or no JSON ({error}); {advice}") from error


def parse_json(text: str) -> Any:
    """The value in a JSON text, within the limits of `read_json`. Raises ValueError for others."""
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
        return _checked(value)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def read_toml(path: str | Path, advice: str) -> dict[str, Any]:
    """The table in a TOML file. advice: what to do about a bad one, such as "name another".

    Raises AirlibError if the file is missing, no regular file, too large, or no TOML.
    """
    text = read_text(path, advice, LARGEST_TOML)
    try:
        if max(map(len, text.splitlines()), default=0) > LONGEST_LINE:
            raise ValueError(f"a line has more than {LONGEST_LINE} characters")
        return _checked(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        reason = TOO_DEEP if isinstance(error, RecursionError) else error
        raise AirlibError(f"{path} is damaged or no TOML ({reason}); {advice}") from error


def wrong_entry(table: Any, kinds: Mapping[str, Any], name: str = "it") -> str:
    """Say which entry of a table, or of a table in it, is of another type; "" if none is.

    kinds: entry -> its type, or the kinds of a table. Entries may be missing, and there may be
    others. name: of the table in what is said.
    """
    if not isinstance(table, dict):
        return f"{name} is no table"
    for key in kinds.keys() & table.keys():
        kind, value = kinds[key], table[key]
        if isinstance(kind, Mapping):
            if wrong := wrong_entry(value, kind, key):
                return wrong
        elif not isinstance(value, kind):
            return f"{key} is no {kind.__name__}"
    return ""


def read_text(path: str | Path, advice: str, largest: int = LARGEST_JSON) -> str:
    """The content of a regular UTF-8 file of at most `largest` bytes, without a byte order mark.

    Raises AirlibError, which ends with `advice`, for anything else.
    """
    content = read_bytes(path, advice, largest)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AirlibError(f"{path} is no text in UTF-8; {advice}") from error


def read_bytes(path: str | Path, advice: str, largest: int = LARGEST_JSON) -> bytes:
    """The content of a regular file of 1 to `largest` bytes.

    Raises AirlibError, which ends with `advice`, for anything else.
    """
    path = Path(path)
    try:
        state = path.stat()  # before it is opened: a named pipe would wait for a writer
        if not stat.S_ISREG(state.st_mode):
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no regular file"
            raise AirlibError(f"{path} is {kind}; {advice}")
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError as error:
        raise AirlibError(f"there is no file {path}; {advice}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise AirlibError(f"cannot read {path}: {reason}; {advice}") from error
    if len(content) > largest:
        raise AirlibError(f"{path} has more than the {largest:,} bytes of such a file; {advice}")
    if not content:
        raise AirlibError(f"{path} is empty; {advice}")
    return content


def _checked(value: Any) -> Any:
    """`value` itself; ValueError for what cannot be walked or written again."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for entry in level:
            if not isinstance(entry, dict | list):
                _check_leaf(entry)
            elif depth == DEEPEST:
                raise ValueError(TOO_DEEP)
            else:
                inner += [*entry, *entry.values()] if isinstance(entry, dict) else entry
        level, depth = inner, depth + 1
    return value


def _check_leaf(leaf: Any) -> None:
    if isinstance(leaf, int) and leaf not in INTEGERS:
        raise ValueError("an integer has more than 64 bits")
    try:
        if isinstance(leaf, str):
            leaf.encode()
    except UnicodeEncodeError as error:  # as the JSON "\\ud800"
        raise ValueError("a text holds half a character") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a finite number")
