"""How long a series of notebooks takes, and what a watch sees."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from airlib.progress import about
from airlib.reproduction.side_by_side import (
    expected_seconds,
    longest_first,
    side_by_side,
    speed,
)
from airlib.reproduction.watch import IDLE, Watch


@dataclass(frozen=True)
class Job:
    name: str
    work: float | None = 10.0
    after: tuple[str, ...] = ()


def test_expected_time_by_hand():
    """a and b begin; c follows b at 20; d needs a and c and runs from 50 to 80."""
    a, b, c = Job("a", 40.0), Job("b", 20.0), Job("c", 30.0)
    d = Job("d", 30.0, after=("a", "c"))
    assert expected_seconds([d, a, b, c], 2, 1.0) == 80.0
    assert expected_seconds([d, a, b, c], 1, 1.0) == 120.0
    assert expected_seconds([d, a, b, c], 2, 10.0) == 8.0
    assert expected_seconds([a, Job("new", None)], 2, 1.0) is None
    assert expected_seconds([], 2, 1.0) == 0.0


def test_the_longest_chain_begins_after_the_first():
    """a and c begin, b follows at 10, d at 30; as given, c begins at 10 and d at 40."""
    a, b, c, d = Job("a", 10.0), Job("b", 40.0), Job("c", 30.0), Job("d", 60.0, after=("c",))
    jobs = [a, b, c, d]
    assert longest_first(jobs) == [a, c, d, b]
    assert expected_seconds(longest_first(jobs), 2, 1.0) == 90.0
    assert expected_seconds(jobs, 2, 1.0) == 100.0
    assert longest_first([b, Job("new", None), d, c]) == [b, Job("new", None), d, c]
    assert longest_first([]) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "about a minute"), (89, "about a minute"), (150, "about 2 minutes")]
)
def test_a_wait_is_said_in_minutes(seconds, words):
    assert about(seconds) == words


def test_what_is_not_in_the_series_is_not_waited_for():
    ran = []
    job = Job("b", after=("a",))
    assert list(side_by_side([job], 2, ran.append, lambda: None)) == [(job, None)]
    assert ran == [job]


def test_speed_is_that_of_one_thread_and_changes_nothing():
    import torch

    before = torch.get_num_threads()
    assert speed() > 1
    assert torch.get_num_threads() == before


BEATS = """import time
from airlib.progress import track
for _ in track(range(14), "waiting"):
    time.sleep(0.3)"""


@pytest.mark.parametrize(("code", "ended"), [(BEATS, False), ("import time; time.sleep(30)", True)])
def test_a_watch_ends_only_what_does_not_move(code, ended):
    """Fourteen items of 0.3 s in a process of its own against an idle time of 3 s."""
    with Watch(idle=3) as watch:
        process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | watch.environment)
        watch.ends_by(process.kill)
        code = process.wait(timeout=20)
    assert (watch.reason == IDLE, code != 0) == (ended, ended)


def test_an_end_before_there_is_a_kernel_is_not_forgotten():
    killed = []
    with Watch(idle=60) as watch:
        watch.end("interrupted")
        watch.ends_by(lambda: killed.append(time.monotonic()))
    assert len(killed) == 1
