"""Whether a running notebook still moves, and what ends it if it does not.

    with Watch(idle=600) as watch:
        ...                       # its kernel runs with `watch.environment`
        watch.moved()             # at every message of the kernel
    watch.reason                  # "" or why the kernel was ended

A slow machine is no reason to stop a notebook, so there is no limit to its time. What counts is
movement: a cell that begins or ends, an output, an item of a progress bar in the kernel or in one
of its worker processes (`airlib.progress.beat`).
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from airlib.progress import HEARTBEAT

IDLE, INTERRUPTED = "idle", "interrupted"  # why a kernel was ended


class Watch:
    """Ends a kernel in which nothing has moved for `idle` seconds, or that is not wanted any more.

    cell: index of the cell that runs, in the notebook as executed; None before the first.
    """

    def __init__(self, idle: float) -> None:
        self.idle, self.reason = idle, ""
        self.cell: int | None = None
        self._kill: Callable[[], None] = lambda: None
        self._last, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        handle, name = tempfile.mkstemp(prefix="airlib-")
        os.close(handle)
        self._beats = Path(name)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._beats.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What the kernel's environment needs beside the rest."""
        return {HEARTBEAT: str(self._beats)}

    def moved(self) -> None:
        """Something has happened now."""
        self._last = time.monotonic()

    def ends_by(self, kill: Callable[[], None]) -> None:
        """How to end the kernel, from now on."""
        self._kill = kill
        if self.reason:  # it came before there was a kernel
            kill()

    def end(self, reason: str) -> None:
        """End the kernel, at once; `reason` is kept."""
        self.reason = self.reason or reason
        self._kill()

    def _look(self) -> None:
        beat = 0
        while not self._over.wait(min(1.0, self.idle / 4)):
            with suppress(OSError):  # someone has cleaned the folder of temporary files
                if (latest := self._beats.stat().st_mtime_ns) != beat:
                    beat = latest
                    self.moved()
            if time.monotonic() - self._last > self.idle:
                self.end(IDLE)
                return
