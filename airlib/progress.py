"""Progress bars: live in a notebook front end, plain text in a terminal, rare lines in a log file.

A notebook that papermill runs shows none: its bars would be stored in the executed notebook. Worker
processes show none either: the process that started them does.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterable


def in_front_end() -> bool:
    """Whether a notebook runs in a browser, and not under papermill."""
    known = "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ
    return known and "ipykernel" in sys.modules


def track(
    iterable: Iterable | None, description: str, total: int | None = None, leave: bool = False
):
    """Wrap `iterable` in the tqdm bar that fits where we run."""
    live = in_front_end()
    if live:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    unseen = "ipykernel" in sys.modules and not live
    silent = unseen or multiprocessing.parent_process() is not None
    seconds = 0.1 if live or sys.stderr.isatty() else 30.0
    return tqdm(
        iterable, desc=description, total=total, leave=leave, mininterval=seconds,
        disable=silent,
    )  # fmt: skip
