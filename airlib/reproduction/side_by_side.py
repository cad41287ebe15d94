"""Several notebooks at once, each after those that it reads the results of.

    for plan, error in side_by_side(plans, 2, run, interrupt):      # as they end
        ...
    expected_seconds(plans, 2, speed())

A notebook names the others in its metadata, {"airlib": {"after": ["03_air_for_gans"]}}. Two
notebooks with one thread each are done sooner than one after the other with two: the threads of one
process wait for one another.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

POLL = 0.5  # seconds; a wait without end cannot be interrupted everywhere
CALIBRATION = 0.3  # seconds


class Ordered(Protocol):
    """What has a name, comes after others, and takes a known amount of `work`, see `speed`."""

    @property
    def name(self) -> str: ...
    @property
    def after(self) -> Sequence[str]: ...
    @property
    def work(self) -> float | None: ...


P = TypeVar("P", bound=Ordered)


def longest_first(plans: Sequence[P]) -> list[P]:
    """Order `plans` as they had better begin, so that no long one is left alone at the end.

    The first stays first: its results are shown while the others run. Of the others, those begin
    earliest that most work comes after, their own included. As given if the work of one is unknown.
    """

    def chain(plan: P) -> float:
        return (plan.work or 0) + max((chain(p) for p in plans if plan.name in p.after), default=0)

    if any(plan.work is None for plan in plans):
        return list(plans)
    return [*plans[:1], *sorted(plans[1:], key=chain, reverse=True)]


def ready(waiting: Sequence[P], running: Sequence[P]) -> P | None:
    """The first of `waiting` that needs none of those that wait or run."""
    unfinished = {plan.name for plan in (*waiting, *running)}
    return next((plan for plan in waiting if not unfinished.intersection(plan.after)), None)


def side_by_side(
    plans: Sequence[P], jobs: int, run: Callable[[P], None], interrupt: Callable[[], None]
) -> Iterator[tuple[P, BaseException | None]]:
    """Call run(plan) for each of `plans`, at most `jobs` at a time, each in a thread.

    Yields (plan, None) or (plan, its error) as they end; after an error no other is begun, and
    those that run are waited for. No plan may come after itself. interrupt: called for Ctrl-C,
    must make every run end soon.
    """
    waiting, running = list(plans), dict[Future[None], P]()
    failed = False
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or (waiting and not failed):
                while len(running) < jobs and not failed:
                    plan = ready(waiting, list(running.values()))
                    if plan is None:
                        break
                    waiting.remove(plan)
                    running[pool.submit(run, plan)] = plan
                for future in wait(running, POLL, FIRST_COMPLETED).done:
                    failed = failed or future.exception() is not None
                    yield running.pop(future), future.exception()
        except BaseException:
            interrupt()
            raise


def expected_seconds(plans: Sequence[P], jobs: int, speed: float) -> float | None:
    """How long `side_by_side` takes at this speed; None if the work of a plan is not known."""
    waiting, running, now = list(plans), list[tuple[float, P]](), 0.0
    while waiting or running:
        while len(running) < jobs and (plan := ready(waiting, [p for _, p in running])):
            if plan.work is None:
                return None
            waiting.remove(plan)
            running.append((now + plan.work / speed, plan))
        running.sort(key=lambda item: item[0])
        now, _ = running.pop(0)
    return now


def speed() -> float:
    """Convolutions of a fixed size per second of one thread of this machine, as busy as it is.

    The work of a notebook is its seconds times this.
    """
    import torch
    import torch.nn.functional as F

    images, weight = torch.ones(4, 64, 32, 32), torch.ones(64, 64, 3, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        F.conv2d(images, weight, padding=1)  # the first one prepares the others
        started, count = time.perf_counter(), 0
        while time.perf_counter() < started + CALIBRATION:
            F.conv2d(images, weight, padding=1)
            count += 1
        return count / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
