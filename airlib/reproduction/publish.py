"""Put the outputs of a finished run into the notebooks, so that a reader on the web sees the story.

    airlib reproduce && airlib publish

A figure called hero.png is copied beside the notebooks, for the README. Of the notebooks only
outputs and execution counts are copied, and how much work it was, for the estimate that a run
begins with; sources stay as they are, and nothing of the run's machine comes along (papermill's
cell and metadata, standard error, timings of the kernel).
"""

import json
import shutil
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.files import write_atomically, write_text
from airlib.reproduction.parameters import read_notebook
from airlib.reproduction.plan import MARKER, find_notebooks

LARGEST = 1_000_000  # bytes of a published notebook
RUN_AGAIN = "run airlib reproduce --fresh"


def publish(
    profile: str = "tiny", out: str | Path = "runs", notebooks: str | Path | None = None
) -> list[Path]:
    """Copy the outputs of finished notebooks into their sources; returns the files written.

    profile, out: the run, as given to `reproduce`. notebooks: folder of the sources NN_name.ipynb,
    by default those of the checkout. A figure hero.png is copied beside them.

    Raises AirlibError if a notebook has not been run, was run from other sources, or would become
    larger than 1 MB.
    """
    written = []
    for path in find_notebooks(notebooks):
        executed = Path(out) / profile / path.stem / path.name
        if not executed.is_file() or not executed.with_name(MARKER).is_file():
            raise AirlibError(f"{path.name} has no finished run in {out}; run airlib reproduce")
        notebook = with_outputs(_read(path), _read(executed))
        notebook.metadata.setdefault("airlib", {})["work"] = _work(executed.with_name(MARKER))
        text = nbformat.writes(notebook)
        if len(text.encode()) > LARGEST:
            raise AirlibError(f"{path.name} would take {len(text)} bytes; show smaller figures")
        written.append(write_text(path, text))
        hero = executed.with_name("hero.png")
        if hero.is_file():
            copy = partial(shutil.copyfile, hero)
            written.append(write_atomically(path.with_name(hero.name), copy))
    return written


def with_outputs(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Put the outputs of the notebook `executed` into `source`, cell by cell; returns `source`.

    Execution counts begin at 1; standard error and papermill's own cell are left out. Raises
    AirlibError if the sources of the cells differ.
    """
    ran = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", ())]
    if [c.source for c in ran] != [c.source for c in source.cells]:
        raise AirlibError("the run was made from other sources; run airlib reproduce again")
    count = 0
    for cell, done in zip(source.cells, ran, strict=True):
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in done.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return source


def _read(path: Path) -> NotebookNode:
    """A notebook of nbformat 4; AirlibError if the file is none."""
    content = read_notebook(path)
    try:
        if content.get("nbformat") != 4:
            raise ValueError(f"its format is {content.get('nbformat')}, not 4")
        notebook = nbformat.v4.reads(json.dumps(content))
        nbformat.validate(notebook)
    except (nbformat.ValidationError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise AirlibError(f"{path} is not a valid notebook ({reason}); {RUN_AGAIN}") from error
    return notebook


def _work(path: Path) -> float | None:
    """How much work a finished run was, as its marker says; AirlibError for a damaged marker."""
    marker = read_json(path, RUN_AGAIN)
    work = marker.get("work", False) if isinstance(marker, dict) else False
    if isinstance(work, bool) or not isinstance(work, int | float | None):
        raise AirlibError(f"{path} does not say how much work it was; {RUN_AGAIN}")
    return work
