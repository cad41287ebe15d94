"""Execute one notebook with papermill, in a kernel of this very interpreter.

Papermill brings the injected parameters and stops at the first failing cell; this module adds what
a batch needs: no kernel has to be registered, a watch that ends a kernel which hangs, errors in one
line, and a result in memory instead of a half-written file.
"""

import logging
import os
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from airlib.errors import AirlibError
from airlib.reproduction.watch import INTERRUPTED, Watch

ENGINE = "airlib"
# Papermill warns of unknown parameters, which airlib.reproduction.parameters has refused already.
logging.getLogger("papermill").setLevel(logging.ERROR)


def execute(
    notebook: Path, parameters: dict[str, Any], watch: Watch, label: str, threads: int | None = None
) -> str:
    """Run `notebook` in its own folder and return the executed notebook as text (JSON).

    parameters: name -> value, injected after the cell tagged `parameters`. watch: ends the kernel.
    label: what the progress bar says. threads: of the kernel; None leaves them alone. Several may
    run at once, each in a thread. Raises AirlibError, in one line, for the first cell that fails,
    for a kernel that dies and for one that hangs; KeyboardInterrupt if it was interrupted.
    """
    try:
        executed = papermill.execute_notebook(
            str(notebook).replace("{", "{{").replace("}", "}}"),  # papermill fills in {braces}
            None,
            parameters=parameters,
            kernel_name="python3",
            language="python",
            engine_name=ENGINE,
            kernel_manager_class=ThisInterpreter,
            extra_arguments=["--log-level=50"],  # the kernel's own notes; cells still write stderr
            progress_bar={"desc": label, "leave": False, "disable": None},
            watch=watch,
            folder=notebook.parent,
            environment=_environment(watch, threads),
        )
    except Exception as error:
        if watch.reason == INTERRUPTED:  # whatever the killed kernel led to
            raise KeyboardInterrupt from error
        known = _in_one_line(notebook, watch, error)
        if known is None:
            raise
        raise known from error
    executed.metadata.pop("papermill", None)  # holds absolute paths
    return nbformat.writes(executed)


class ThisInterpreter(AsyncKernelManager):
    """Manager of a kernel in the interpreter that runs airlib, whatever kernels are registered."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # only ipykernel's own, which is sys.executable

    def kill_now(self) -> None:
        """End the kernel's process at once, from any thread."""
        process = getattr(self.provisioner, "process", None)
        if process is not None:
            process.kill()


class WatchedClient(PapermillNotebookClient):
    """Executes the cells of a notebook and tells the watch of every message of the kernel."""

    def __init__(self, manager: Any, watch: Watch, **options: Any) -> None:
        super().__init__(manager, **options)
        self.watch = watch

    def process_message(self, msg: dict, cell: nbformat.NotebookNode, cell_index: int) -> Any:
        """Handle one message, of cell `cell_index`."""
        self.watch.cell = cell_index
        self.watch.moved()
        return super().process_message(msg, cell, cell_index)

    def start_new_kernel_client(self, **options: Any) -> Any:
        """Connect to the kernel that has just been started."""
        self.watch.ends_by(self.km.kill_now)
        return super().start_new_kernel_client(**options)


class WatchedEngine(NBClientEngine):
    """Papermill's own engine, with a `WatchedClient`."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, watch: Watch, folder: Path,
        environment: dict[str, str], start_timeout: int = 60, **options: Any,
    ) -> Any:  # fmt: skip
        """Run the notebook of `nb_man` in `folder`, its kernel with `environment`."""
        for used_elsewhere in ("input_path", "log_output", "stdout_file", "stderr_file"):
            options.pop(used_elsewhere, None)
        client = WatchedClient(
            nb_man, watch, kernel_name=kernel_name, startup_timeout=start_timeout, **options
        )
        return client.execute(cwd=str(folder), env=environment)


papermill_engines.register(ENGINE, WatchedEngine)


def _environment(watch: Watch, threads: int | None) -> dict[str, str]:
    """That of this process, without the mark of a live front end: widgets and live bars would hang
    in a batch.
    """
    environment = {key: value for key, value in os.environ.items() if key != "JPY_SESSION_NAME"}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return environment | watch.environment


def _in_one_line(notebook: Path, watch: Watch, error: Exception) -> AirlibError | None:
    """What went wrong as an AirlibError, or None if it is nothing we know."""
    if isinstance(error, PapermillExecutionError):
        what = f"{error.ename}: {' '.join(error.evalue.split())}"
        return AirlibError(f"{notebook.name}, cell {_number(notebook, error.cell_index)}: {what}")
    if watch.reason:
        where = "" if watch.cell is None else f", cell {_number(notebook, watch.cell)}"
        return AirlibError(
            f"{notebook.name}{where}: nothing moved for {watch.idle / 60:g} minutes (no output, no "
            "progress) and it was stopped; if it needs that long, raise notebooks.idle_minutes in "
            "the overrides"
        )
    if isinstance(error, DeadKernelError):
        return AirlibError(
            f"{notebook.name}: its Python process died, often for lack of memory; "
            "close other programs and run the same command again"
        )
    return None


def _number(notebook: Path, index: int) -> int:
    """The number of an executed cell, counted from 1 as in the notebook itself."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ())]
    injected = tagged[0] + 1  # papermill adds its cell here
    return index + (index < injected)
