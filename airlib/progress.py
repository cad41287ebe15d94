"""Progress bars: live in a notebook front end, plain text in a terminal, rare lines in a log file.

A notebook that papermill runs shows none: its bars would be stored in the executed notebook. Worker
processes show none either: the process that started them does. Both still beat: every item touches
the file that `HEARTBEAT` names, so that whoever watches a batch sees it move.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airlib.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm


HEARTBEAT = "AIRLIB_HEARTBEAT"  # environment variable: the file to touch, if somebody watches


def beat() -> None:
    """Tell whoever watches this run that it moves."""
    if file := os.environ.get(HEARTBEAT):
        with suppress(OSError):
            os.utime(file)


def about(seconds: float) -> str:
    """A time to wait for in words, such as "about 5 minutes"."""
    minutes = round(seconds / 60)
    return f"about {minutes} minutes" if minutes > 1 else "about a minute"


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
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    seconds = 0.1 if live or sys.stderr.isatty() else 30.0
    items = None if iterable is None else _beating(iterable)
    named = printable(description)
    named = printable(description)
    return bar(items, desc=named, total=total, leave=leave, mininterval=seconds, disable=silent)


def _beating(items: Iterable) -> Iterator:
    for item in items:
        beat()
        yield item
