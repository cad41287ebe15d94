"""Execute one notebook with papermill, in a kernel of this very interpreter.

Papermill brings the injected parameters and stops at the first failing cell; this module adds what
a batch needs: no kernel has to be registered, a time limit for the whole notebook, errors in one
line, and a result in memory instead of a half-written file.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from airlib.errors import AirlibError

logging.getLogger("papermill").setLevel(logging.ERROR)  # airlib.parameters has checked the cell


class ThisInterpreter(AsyncKernelManager):
    """Starts the interpreter that runs airlib, whatever kernels are registered on the machine."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # only ipykernel's own, which is sys.executable

    async def start_kernel(self, **options: Any) -> None:
        """Start it without the mark of a live front end: widgets and live bars hang in a batch."""
        environment = {key: value for key, value in os.environ.items() if key != "JPY_SESSION_NAME"}
        await super().start_kernel(**{"env": environment, **options})


def execute(notebook: Path, parameters: dict[str, Any], timeout: float, label: str) -> str:
    """Run `notebook` in its own folder and return the executed notebook as text.

    timeout: seconds for the whole notebook. Raises AirlibError, in one line, for the first cell
    that fails, for a kernel that dies and for a notebook that runs too long.
    """
    deadline = time.monotonic() + timeout
    try:
        executed = papermill.execute_notebook(
            str(notebook).replace("{", "{{").replace("}", "}}"),  # papermill fills in {braces}
            None,
            parameters=parameters,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            kernel_manager_class=ThisInterpreter,
            extra_arguments=["--log-level=50"],  # the kernel's own notes; cells still write stderr
            timeout_func=lambda cell: max(1.0, deadline - time.monotonic()),
            progress_bar={"desc": label, "leave": False, "disable": None},
        )
    except PapermillExecutionError as error:
        raise AirlibError(_failure(notebook, error)) from error
    except CellTimeoutError as error:
        raise AirlibError(
            f"{notebook.name} ran longer than {timeout / 60:g} minutes and was stopped; "
            "raise notebooks.timeout_minutes in the overrides"
        ) from error
    except DeadKernelError as error:
        raise AirlibError(
            f"{notebook.name}: its Python process died, often for lack of memory; "
            "close other programs and run the same command again"
        ) from error
    executed.metadata.pop("papermill", None)  # holds absolute paths
    return nbformat.writes(executed)


def _failure(notebook: Path, error: PapermillExecutionError) -> str:
    """ "03_air.ipynb, cell 7: ValueError: ..."; cells are counted as in the notebook itself."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [
        index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ())
    ]
    injected = tagged[0] + 1  # papermill adds its cell here
    number = error.cell_index + (error.cell_index < injected)
    return f"{notebook.name}, cell {number}: {error.ename}: {' '.join(error.evalue.split())}"
