"""Run the notebooks in order and end with report.html.

    reproduce("tiny", out="runs")       # the same as `airlib reproduce`

Everything that can be wrong is checked before the first notebook starts: profile, selection,
parameters, disk, memory. A notebook that finished leaves `finished.json` beside its results, with
its parameters and the digests of the notebook and of airlib; the next call skips it while these are
the same. The run stops at the first failure with the failing cell's own message. An executed
notebook appears on disk only once it is complete.
"""

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlib.errors import AirlibError
from airlib.files import write_json, write_text
from airlib.profiles import load_profile
from airlib.reproduction.doctor import check_machine
from airlib.reproduction.notebook import DEFAULT_OUT, run_directory
from airlib.reproduction.parameters import parameter_cell, parse_parameters
from airlib.reproduction.report import write_report
from airlib.results import FILE_NAME, load_results

MARKER = "finished.json"
RUNNER_OPTIONS = {"profile": "--profile", "out_dir": "--out", "interactive": None}


@dataclass(frozen=True)
class Plan:
    """One notebook that is to be run: its file, its parameters by name, where its results go.

    `timeout` is in seconds, for the whole notebook.
    """

    notebook: Path
    parameters: dict[str, Any]
    directory: Path
    timeout: float

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for an earlier run to count as this one, as JSON values.

        These are the parameters (without the folder of the results), the digest of the notebook's
        cells (without outputs), and the digest of the package.
        """
        parameters = {key: value for key, value in self.parameters.items() if key != "out_dir"}
        cells = json.loads(self.notebook.read_text(encoding="utf-8"))["cells"]
        sources = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells])
        digest = hashlib.sha256(sources.encode()).hexdigest()  # stored outputs do not matter
        return {"parameters": parameters, "notebook": digest, "airlib": airlib_digest()}

    def is_finished(self) -> bool:
        """Whether this notebook has run with these parameters before, and its results are whole."""
        try:
            marker = json.loads((self.directory / MARKER).read_text(encoding="utf-8"))
            load_results(self.directory / FILE_NAME)
        except (OSError, ValueError, AirlibError):
            return False
        return marker == self.fingerprint()


def reproduce(
    profile: str = "tiny",
    only: Sequence[str] = (),
    out: str | Path = DEFAULT_OUT,
    parameters: Iterable[tuple[str, str]] = (),
    fresh: bool = False,
    notebooks: str | Path | None = None,
) -> Path:
    """Run the notebooks that have not finished yet and return the path of report.html.

    only: numbers or names of notebooks ("03" or "03_air"); empty means all. parameters: (name,
    value as text). fresh: run again what has finished. notebooks: folder of NN_name.ipynb files.

    Raises AirlibError before anything runs if something is wrong, or with the message of the first
    cell that fails.
    """
    load_profile(profile)  # a wrong profile is the first thing to say
    out = Path(out).absolute()
    selected = select(find_notebooks(notebooks), only)
    plans = make_plans(selected, profile, out, list(parameters))
    check_machine(out)
    for position, plan in enumerate(plans, start=1):
        label = f"[{position}/{len(plans)}] {plan.notebook.stem}"
        if not fresh and plan.is_finished():
            _say(f"{label}: already finished")
            continue
        _say(f"{label}: running")
        started = time.monotonic()
        run(plan, label)
        _say(f"{label}: finished in {time.monotonic() - started:.0f} s")
    return write_report(out)


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
    notebooks: list[Path], profile: str, out: Path, parameters: list[tuple[str, str]]
) -> list[Plan]:
    """Check profile, parameters and directories; returns what is to be run, in order.

    out: folder that the results of all notebooks go to. parameters: pairs (name, value as text); a
    parameter goes to every notebook that has it. Raises AirlibError for a parameter that none of
    them has or that the runner sets itself, for wrong values, and for a directory that cannot be
    written.
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
        timeout = 60.0 * numbers.notebooks.timeout_minutes
        plans.append(Plan(path, given[path] | fixed, directory, timeout))
    return plans


def run(plan: Plan, label: str) -> None:
    """Execute one notebook with papermill and mark it as finished.

    label: what the progress bar says. Raises AirlibError with the message of the failing cell, or
    if the notebook ran too long, its kernel died, or it left no results.
    """
    from airlib.reproduction.execution import execute

    fingerprint = plan.fingerprint()  # of what runs now: files may be edited meanwhile
    for stale in (MARKER, FILE_NAME):
        (plan.directory / stale).unlink(missing_ok=True)
    text = execute(plan.notebook, plan.parameters, plan.timeout, label)
    try:
        load_results(plan.directory / FILE_NAME)
    except AirlibError as error:
        raise AirlibError(
            f"{plan.notebook.name} left no results ({error}); does it end with session.finish()?"
        ) from error
    executed = plan.directory / plan.notebook.name
    write_text(executed, text)
    write_json(plan.directory / MARKER, fingerprint)


@functools.cache
def airlib_digest() -> str:
    """SHA-256 over all files of the package (code, profiles, weights) at the first call."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(os.fsencode(path.relative_to(package)) + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
