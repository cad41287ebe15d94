"""Run the notebooks, one for each core at a time, and end with report.html.

    reproduce("tiny", out="runs")       # the same as `airlib reproduce`

Everything that can be wrong is checked before the first notebook starts: profile, selection,
parameters, disk, memory. A notebook that finished leaves `finished.json` beside its results, with
its parameters and the digests of the notebook and of airlib; the next call skips it while these are
the same. After the first failure no other notebook begins, and the run ends with the failing cell's
own message. An executed notebook appears on disk only once it is complete; the report appears with
the first one.
"""

import functools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from airlib.errors import AirlibError, printable
from airlib.files import write_json, write_text
from airlib.profiles import load_profile
from airlib.progress import about
from airlib.reproduction.doctor import check_machine
from airlib.reproduction.notebook import DEFAULT_OUT
from airlib.reproduction.plan import MARKER, Plan, find_notebooks, make_plans, select
from airlib.reproduction.report import write_report
from airlib.reproduction.side_by_side import expected_seconds, longest_first, side_by_side, speed
from airlib.reproduction.watch import INTERRUPTED, Watch
from airlib.results import FILE_NAME, load_results

MOST_AT_A_TIME = 4  # notebooks; each takes up to 2 GB of memory


def reproduce(
    profile: str = "tiny",
    only: Sequence[str] = (),
    out: str | Path = DEFAULT_OUT,
    parameters: Iterable[tuple[str, str]] = (),
    fresh: bool = False,
    notebooks: str | Path | None = None,
    jobs: int | None = None,
) -> Path:
    """Run the notebooks that have not finished yet and return the path of report.html.

    only: numbers or names of notebooks ("03" or "03_air"); empty means all. parameters: (name,
    value as text). fresh: run again what has finished. notebooks: folder of NN_name.ipynb files.
    jobs: notebooks at a time; by default one per core, up to four, or one on a graphics card.

    Raises AirlibError before anything runs if something is wrong, or with the message of the first
    cell that fails.
    """
    load_profile(profile)  # a wrong profile is the first thing to say
    out, cores = Path(out).absolute(), os.cpu_count() or 1
    jobs = jobs or (1 if _has_graphics_card() else min(cores, MOST_AT_A_TIME))
    selected = select(find_notebooks(notebooks), only)
    plans = make_plans(selected, profile, out, list(parameters), max(1, cores // jobs))
    check_machine(out)
    return Series(plans, out, jobs).run(fresh)


class Series:
    """Notebooks that are run together, `jobs` at a time, into the folder `out`."""

    def __init__(self, plans: Sequence[Plan], out: Path, jobs: int) -> None:
        self.plans, self.out, self.jobs = plans, out, jobs
        self.watches: list[Watch] = []

    @functools.cached_property
    def speed(self) -> float:
        """The speed of this machine, measured when first asked for: not if nothing is to run."""
        return speed()

    def run(self, fresh: bool = False) -> Path:
        """Run what has not finished (all, if `fresh`), say how it goes, and return the report."""
        todo = longest_first([plan for plan in self.plans if fresh or not plan.is_finished()])
        for plan in self.plans:
            if plan not in todo:
                _say(f"{self._label(plan)}: already finished")
        if len(todo) > 1:
            _say(self._expectation(todo))
        failures, waiting = [], {plan.directory for plan in todo}
        for plan, error in side_by_side(todo, self.jobs, self._run, self._interrupt):
            if error is None:
                waiting.remove(plan.directory)
                report = write_report(self.out, waiting)
                if plan is todo[0] and len(todo) > 1:
                    _say(f"so far: {report}")
            else:
                failures.append(error)
                _say(f"{self._label(plan)}: failed")
        if failures:
            raise failures[0]
        return write_report(self.out)

    def _expectation(self, todo: Sequence[Plan]) -> str:
        seconds = expected_seconds(todo, self.jobs, self.speed)
        at_once = f", {self.jobs} at a time" if self.jobs > 1 else ""
        wait = "" if seconds is None else f": {about(seconds)} here"
        return f"{len(todo)} notebooks to run{at_once}{wait}"

    def _label(self, plan: Plan) -> str:
        return f"[{self.plans.index(plan) + 1}/{len(self.plans)}] {plan.name}"

    def _run(self, plan: Plan) -> None:
        label, started = self._label(plan), time.monotonic()
        _say(f"{label}: running")
        fingerprint = plan.fingerprint()  # of what runs now: files may be edited meanwhile
        with Watch(plan.idle) as watch:
            self.watches.append(watch)
            run(plan, watch, label, threads=1 if self.jobs > 1 else None)
        seconds = time.monotonic() - started
        write_json(plan.directory / MARKER, fingerprint | {"work": round(seconds * self.speed)})
        _say(f"{label}: finished in {seconds:.0f} s")

    def _interrupt(self) -> None:
        for watch in self.watches:
            watch.end(INTERRUPTED)


def run(plan: Plan, watch: Watch, label: str, threads: int | None = None) -> None:
    """Execute one notebook with papermill; its results and the executed notebook are there then.

    watch: ends it when it hangs. label: what the progress bar says. threads: of its kernel. Raises
    AirlibError with the message of the failing cell, or if the kernel hangs or dies, or if the
    notebook left no results.
    """
    from airlib.reproduction.execution import execute

    for stale in (MARKER, FILE_NAME):
        (plan.directory / stale).unlink(missing_ok=True)
    text = execute(plan.notebook, plan.parameters, watch, label, threads)
    try:
        load_results(plan.directory / FILE_NAME)
    except AirlibError as error:
        raise AirlibError(
            f"{plan.notebook.name} left no results ({error}); does it end with session.finish()?"
        ) from error
    write_text(plan.directory / plan.notebook.name, text)


def _has_graphics_card() -> bool:
    import torch

    return torch.cuda.is_available()


def _say(message: str) -> None:
    sys.stderr.write(f"{printable(message)}\n")  # at once: several threads write
    sys.stderr.flush()
