"""Execute one notebook with papermill, in a kernel of this very interpreter.

Papermill brings the injected parameters and stops at the first failing cell; this module adds what
a batch needs: no kernel has to be registered, a time limit for the whole notebook, errors in one
line, and a result in memory instead of a half-written file.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from airlib.errors import AirlibError

# Papermill warns of unknown parameters, which airlib.reproduction.parameters has refused already.
logging.getLogger("papermill").setLevel(logging.ERROR)


class ThisInterpreter(AsyncKernelManager):
    """Manager of a kernel in the interpreter that runs airlib, whatever kernels are registered."""

    started: ClassVar["list[ThisInterpreter]"] = []

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # only ipykernel's own, which is sys.executable

    # The type that jupyter_client declares for this method is not that of its own asynchronous one.
    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start the kernel without the mark of a live front end.

        Widgets and live bars would hang in a batch. options: as for `AsyncKernelManager`.
        """
        environment = {key: value for key, value in os.environ.items() if key != "JPY_SESSION_NAME"}
        await super().start_kernel(**{"env": environment, **options})
        self.started[:] = [self]

    def kill_now(self) -> None:
        """End the kernel's process at once, also from within a signal handler."""
        process = getattr(self.provisioner, "process", None)
        if process is not None:
            process.kill()


@contextmanager
def ctrl_c_ends_the_kernel() -> Iterator[list[int]]:
    """Context in which Ctrl-C kills the notebook's kernel besides raising KeyboardInterrupt.

    Yields the list of signals received so far. The exception alone is not reliable: raised inside a
    callback of the event loop it is lost, and the notebook would go on. A killed kernel ends the
    wait in any case.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for manager in ThisInterpreter.started:
            manager.kill_now()
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield received
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def execute(notebook: Path, parameters: dict[str, Any], timeout: float, label: str) -> str:
    """Run `notebook` in its own folder and return the executed notebook as text (JSON).

    parameters: name -> value, injected after the cell tagged `parameters`. timeout: seconds for the
    whole notebook. label: what the progress bar says. Raises AirlibError, in one line, for the
    first cell that fails, for a kernel that dies and for a notebook that runs too long;
    KeyboardInterrupt for Ctrl-C.
    """
    with ctrl_c_ends_the_kernel() as received:
        try:
            executed = _run(notebook, parameters, timeout, label, received)
        except Exception as error:
            if received:  # whatever the killed kernel led to
                raise KeyboardInterrupt from error
            known = _in_one_line(notebook, timeout, error)
            if known is None:
                raise
            raise known from error
    executed.metadata.pop("papermill", None)  # holds absolute paths
    return nbformat.writes(executed)


def _run(
    notebook: Path, parameters: dict[str, Any], timeout: float, label: str, received: list[int]
) -> nbformat.NotebookNode:
    deadline = time.monotonic() + timeout

    def seconds_left(cell: nbformat.NotebookNode) -> float:
        if received:  # the interrupt came before there was a kernel to kill
            raise KeyboardInterrupt
        return max(1.0, deadline - time.monotonic())

    return papermill.execute_notebook(
        str(notebook).replace("{", "{{").replace("}", "}}"),  # papermill fills in {braces}
        None,
        parameters=parameters,
        kernel_name="python3",
        language="python",
        cwd=notebook.parent,
        kernel_manager_class=ThisInterpreter,
        extra_arguments=["--log-level=50"],  # the kernel's own notes; cells still write stderr
        timeout_func=seconds_left,
        progress_bar={"desc": label, "leave": False, "disable": None},
    )


def _in_one_line(notebook: Path, timeout: float, error: Exception) -> AirlibError | None:
    """What went wrong as an AirlibError, or None if it is nothing we know."""
    if isinstance(error, PapermillExecutionError):
        return AirlibError(_failure(notebook, error))
    if isinstance(error, CellTimeoutError):
        return AirlibError(
            f"{notebook.name} ran longer than {timeout / 60:g} minutes and was stopped; "
            "raise notebooks.timeout_minutes in the overrides"
        )
    if isinstance(error, DeadKernelError):
        return AirlibError(
            f"{notebook.name}: its Python process died, often for lack of memory; "
            "close other programs and run the same command again"
        )
    return None


def _failure(notebook: Path, error: PapermillExecutionError) -> str:
    """ "03_air.ipynb, cell 7: ValueError: ..."; cells are counted as in the notebook itself."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [
        index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ())
    ]
    injected = tagged[0] + 1  # papermill adds its cell here
    number = error.cell_index + (error.cell_index < injected)
    return f"{notebook.name}, cell {number}: {error.ename}: {' '.join(error.evalue.split())}"
