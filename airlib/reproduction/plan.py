"""Which notebooks there are, and what is to be run of them: `Plan`.

    make_plans(select(find_notebooks(), ["03"]), "tiny", Path("runs"), [("live", "5")])

A notebook may say in its metadata whose results it reads and how much work it is,
{"airlib": {"after": ["03_air_for_gans"], "work": 9000.0}}.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.profiles import load_profile
from airlib.reproduction.notebook import run_directory
from airlib.reproduction.parameters import parameter_cell, parse_parameters, read_notebook
from airlib.reproduction.report import read_figure
from airlib.results import FILE_NAME, load_results

MARKER = "finished.json"
RUNNER_OPTIONS = {"profile": "--profile", "out_dir": "--out", "interactive": None}
WITHOUT_EFFECT = ("out_dir", "workers")  # parameters that do not change the results


@dataclass(frozen=True)
class Plan:
    """One notebook that is to be run: its file, its parameters by name, where its results go.

    idle: seconds without any movement after which it is stopped. after: names of the notebooks
    whose results it reads. work: what it takes, see `side_by_side.speed`; None if not known.
    """

    notebook: Path
    parameters: dict[str, Any]
    directory: Path
    idle: float
    after: tuple[str, ...] = ()
    work: float | None = None

    @property
    def name(self) -> str:
        """The name of the notebook, such as "03_air_for_gans"."""
        return self.notebook.stem

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for an earlier run to count as this one, as JSON values.

        These are the parameters (but for those without effect on the results), the digest of the
        notebook's cells (without outputs), and the digest of the package.
        """
        parameters = {k: v for k, v in self.parameters.items() if k not in WITHOUT_EFFECT}
        cells = read_notebook(self.notebook)["cells"]
        sources = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells])
        digest = hashlib.sha256(sources.encode()).hexdigest()  # stored outputs do not matter
        return {"parameters": parameters, "notebook": digest, "airlib": airlib_digest()}

    def is_finished(self) -> bool:
        """Whether this notebook has run with these parameters before, and what it left is whole:
        results, figures and the executed notebook.
        """
        try:
            marker = read_json(self.directory / MARKER, "run it again")
            for figure in load_results(self.directory / FILE_NAME)["figures"]:
                read_figure(self.directory, figure["file"])
            read_notebook(self.directory / self.notebook.name)
        except AirlibError:
            return False
        if not isinstance(marker, dict):
            return False
        return marker | {"work": None} == self.fingerprint() | {"work": None}


def find_notebooks(folder: str | Path | None = None) -> list[Path]:
    """The files NN_name.ipynb of a folder, in order of their names.

    Without `folder`: those of the checkout, or else of ./notebooks. Raises AirlibError if there are
    none.
    """
    checkout = Path(__file__).absolute().parents[2] / "notebooks"
    folders = [Path(folder).absolute()] if folder else [checkout, Path.cwd() / "notebooks"]
    for candidate in folders:
        found = sorted(candidate.glob("[0-9][0-9]_*.ipynb"))
        if found:
            return found
    raise AirlibError(
        f"no notebooks NN_name.ipynb in {' or '.join(map(str, dict.fromkeys(folders)))}; "
        "run from a checkout of airlib, or name the folder with --notebooks"
    )


def select(notebooks: list[Path], only: Sequence[str]) -> list[Path]:
    """The notebooks whose number ("03") or name ("03_air") is in `only`; all if `only` is empty.

    Raises AirlibError for a number or name that no notebook has.
    """
    for wanted in only:
        if not any(wanted in (path.stem, path.stem[:2]) for path in notebooks):
            known = ", ".join(path.stem for path in notebooks)
            raise AirlibError(f"unknown notebook {wanted!r}; choose from {known}")
    return [path for path in notebooks if not only or {path.stem, path.stem[:2]} & set(only)]


def make_plans(
    notebooks: list[Path], profile: str, out: Path, parameters: list[tuple[str, str]],
    workers: int = 1,
) -> list[Plan]:  # fmt: skip
    """Check profile, parameters and directories; returns what is to be run, in order.

    out: folder that the results of all notebooks go to. parameters: pairs (name, value as text); a
    parameter goes to every notebook that has it. workers: processes that a notebook may start, if
    `parameters` do not say it. Raises AirlibError for a parameter that none of them has or that the
    runner sets itself, for wrong values, and for a directory that cannot be written.
    """
    for name, _ in parameters:
        if name in RUNNER_OPTIONS:
            option = RUNNER_OPTIONS[name]
            instead = f"use {option}" if option else "it is always off here"
            raise AirlibError(f"parameter {name} is set by the runner; {instead}")
    cells = {path: parameter_cell(path) for path in notebooks}
    given = parse_parameters(parameters, cells)
    plans = []
    for path in notebooks:
        fixed = {"profile": profile, "out_dir": str(out)}
        missing = [name for name in fixed if name not in cells[path]]
        if missing:
            raise AirlibError(f"{path.name} lacks the parameter {missing[0]}, which airlib sets")
        if "interactive" in cells[path]:  # a notebook with widgets
            fixed["interactive"] = "off"
        numbers = load_profile(profile, given[path].get("overrides"))
        directory = run_directory(out, profile, path.stem)
        idle = 60.0 * numbers.notebooks.idle_minutes
        own = {"workers": workers} if "workers" in cells[path] else {}
        after, work = _said_of_itself(path)
        work = work if profile == "tiny" and not given[path] else None
        plans.append(Plan(path, own | given[path] | fixed, directory, idle, after, work))
    _check_order(plans)
    return plans


def _said_of_itself(path: Path) -> tuple[tuple[str, ...], float | None]:
    """`after` and `work` of a notebook's metadata; AirlibError for what is neither."""
    said = read_notebook(path)["metadata"].get("airlib", {})
    known = said if isinstance(said, dict) else {"after": said}
    after, work = known.get("after", []), known.get("work")
    names = isinstance(after, list) and all(isinstance(name, str) for name in after)
    if not names or not (work is None or isinstance(work, int | float) and 0 <= work < math.inf):
        raise AirlibError(
            f'{path.name}: its metadata may say of airlib what it comes "after", a list of names, '
            f'and its "work", a number, not {said!r}'
        )
    return tuple(after), work


def _check_order(plans: Sequence[Plan]) -> None:
    """Raise AirlibError where notebooks wait for one another."""
    try:
        TopologicalSorter({plan.name: plan.after for plan in plans}).prepare()
    except CycleError as error:
        raise AirlibError(
            f"each of these notebooks comes after the next: {', '.join(error.args[1])}; take a "
            'name out of "after" in the metadata of one'
        ) from error


@functools.cache
def airlib_digest() -> str:
    """SHA-256 over all files of the package (code, profiles, weights) at the first call."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(os.fsencode(path.relative_to(package)) + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
