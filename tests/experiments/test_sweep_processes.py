"""Jobs in worker processes: what comes back, what a dead worker does, and what is left behind."""

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from airlib.experiments.processes import in_processes

pytestmark = pytest.mark.slow  # starts processes and kills them


def job(number: int, fate: str) -> tuple[int, int, int]:
    if fate == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "fails":
        raise ValueError(f"no {number}")
    return number, os.getpid(), torch.get_num_threads()


def test_jobs_go_on_when_others_fail_or_their_worker_is_killed(tmp_path, monkeypatch):
    """Called where an event loop runs already, as in a notebook."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))
    jobs = [(0, "dies"), (1, ""), (2, "fails"), (3, ""), (4, ""), (5, "")]
    failed = {}

    async def cell() -> list[tuple[int, int, int]]:
        def note(arguments: tuple, error: Exception) -> None:
            failed[arguments] = str(error)

        return list(in_processes(job, jobs, workers=2, on_failure=note))

    found = sorted(asyncio.run(cell()))
    assert [number for number, _, _ in found] == [1, 3, 4, 5]
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for *_, threads in found} == {1}
    assert failed == {
        (0, "dies"): "its process was killed (out of memory?); use fewer workers",
        (2, "fails"): "no 2",
    }
    left = set(psutil.Process().children(recursive=True)) - before
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in left)
    assert not list(Path(tmp_path).iterdir())


def test_one_worker_is_this_process_and_the_first_error_stops():
    done, jobs = [], [(0, ""), (1, "fails"), (2, "")]
    with pytest.raises(ValueError, match="no 1"):
        done.extend(result[:2] for result in in_processes(job, jobs, workers=1))
    assert done == [(0, os.getpid())]


def test_runs_say_how_many_there_are_and_how_long_they_take(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # a plugin of pytest imports it
    list(in_processes(job, [(number, "") for number in range(3)], workers=1))
    said = capsys.readouterr().err
    assert said.index("3 runs:") < said.index("3 runs, about a minute here:")
