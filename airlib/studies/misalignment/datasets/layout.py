"""What lies where: a missing part of a published layout is one clear error, before any work."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airlib.errors import AirlibError
from airlib.images.folders import is_hidden
from airlib.images.items import Box

NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def required_folder(folder: Path, content: str) -> Path:
    """`folder` itself, if it is there. Raises AirlibError if not, saying what it should hold."""
    if not folder.is_dir():
        raise AirlibError(f"no such folder: {folder}; it should hold {content}")
    return folder


def required_files(directory: Path, names: Iterable[str], content: str) -> list[Path]:
    """The files of `directory` that match one of `names` (glob patterns), at least one, sorted.

    content: what they are, for the message. Raises AirlibError if there is none.
    """
    wanted = " or ".join(names)
    required_folder(directory, f"{wanted}: {content}")
    matching = (path for name in names for path in directory.glob(name))
    found = {path for path in matching if path.is_file() and not is_hidden(path.name)}
    if not found:
        raise AirlibError(f"{directory} has no {wanted}; it should hold {content}")
    return sorted(found)


def splits_on_disk(directory: Path, splits: Mapping[Path, str], name: str) -> dict[Path, str]:
    """The entries of {annotation file: split} whose images are there, in `directory/split`.

    name: of the data set, for the message. Raises AirlibError if no split has images.
    """
    present = {file: split for file, split in splits.items() if (directory / split).is_dir()}
    if not present:
        wanted = " or ".join(splits.values())
        raise AirlibError(f"{directory} has no folder {wanted} with the images of {name}")
    return present


def read_json(path: Path) -> Any:
    """The content of a JSON annotation file. Raises AirlibError if it is damaged."""
    with annotations(path), path.open(encoding="utf-8") as file:
        return json.load(file)


@contextmanager
def annotations(path: Path) -> Iterator[None]:
    """Context for reading an annotation file: whatever a damaged one leads to is an AirlibError."""
    try:
        yield
    except (*NONSENSE, csv.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise AirlibError(
            f"{path} is damaged or no file of this data set ({reason}); fetch it again"
        ) from error


def checked_box(left: float, top: float, right: float, bottom: float) -> Box:
    """The edges as a box; ValueError if one is NaN or infinite."""
    if not math.isfinite(left + top + right + bottom):
        raise ValueError(f"a box of {left}, {top}, {right}, {bottom}")
    return left, top, right, bottom


def image_names(folder: Path) -> set[str]:
    """Names of the files in `folder`, to leave out annotations of images that are not there, so
    that a part of a large data set can be used.
    """
    return {entry.name for entry in folder.iterdir()}
