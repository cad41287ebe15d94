"""Progress bars: live in a notebook front end, plain text in a terminal, rare lines in a log file.

A notebook that papermill runs shows none: its bars would be stored in the executed notebook. Worker
processes show none either: the process that started them does.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterable


def track(
    iterable: Iterable | None, description: str, total: int | None = None, leave: bool = False
):
    """Wrap `iterable` in the tqdm bar that fits where we run."""
    in_kernel = "ipykernel" in sys.modules
    live = in_kernel and ("google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ)
    if live:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    silent = (in_kernel and not live) or multiprocessing.parent_process() is not None
    seconds = 0.1 if live or sys.stderr.isatty() else 30.0
    return tqdm(
        iterable, desc=description, total=total, leave=leave, mininterval=seconds,
        disable=silent,
    )  # fmt: skip
