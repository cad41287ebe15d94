"""Progress bars: live in a notebook front end, plain text in a terminal, rare lines in a log file.

A notebook that papermill runs shows none: its bars would be stored in the executed notebook. Worker
processes show none either: the process that started them does.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def in_front_end() -> bool:
    """Whether a notebook runs in a browser, and not under papermill."""
    known = "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ
    return known and "ipykernel" in sys.modules


def track(
    iterable: Iterable | None, description: str, total: int | None = None, leave: bool = False
) -> "tqdm[Any]":
    """Wrap `iterable` in a tqdm progress bar that fits where the program runs.

    The bar is live in a notebook front end, plain text in a terminal, a rare line in a log file,
    and silent under papermill and in worker processes. iterable: None for a bar that is updated by
    hand. total: the number of items, where `iterable` does not tell. leave: keep the finished bar.
    """
    live = in_front_end()
    bar = import_module("tqdm.notebook" if live else "tqdm").tqdm
    unseen = "ipykernel" in sys.modules and not live
    silent = unseen or multiprocessing.parent_process() is not None
    seconds = 0.1 if live or sys.stderr.isatty() else 30.0
    return bar(
        iterable, desc=description, total=total, leave=leave, mininterval=seconds,
        disable=silent,
    )  # fmt: skip
