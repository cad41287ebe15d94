"""Many jobs in many processes, by dask.distributed: on this machine, or wherever a scheduler has
workers.

    for result in in_processes(job, [(1, "a"), (2, "b")], workers=2):     # job(1, "a"), ...
        ...
    in_processes(job, jobs, scheduler="tcp://10.0.0.5:8786")              # of `dask scheduler`

A job is a function of a module and leaves what matters on disk; workers elsewhere need the same
airlib and must see the same directories. A process runs one job at a time, with one thread.
"""

import math
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from logging import CRITICAL
from typing import TYPE_CHECKING, Any

from airlib.errors import AirlibError
from airlib.progress import about, track

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = {
    "distributed.scheduler.allowed-failures": 0,  # what killed one worker would kill the next
    "distributed.scheduler.worker-ttl": None,  # a busy worker is not a dead one
    "distributed.worker.multiprocessing-method": "spawn",  # a notebook's kernel runs threads
    # Dask's own 64 kB makes the C library map and clear the memory of every tensor anew: a third of
    # the processor's time was the system's. Any other process arrives at these by itself.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 26,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 1 << 25,
}
PATIENCE = 60  # seconds without any worker; a new one may take half of them to start
Outcome = tuple[tuple, Any, Exception | None]  # arguments, result, error

_one_job_at_a_time = threading.Lock()  # a worker of another scheduler may have several threads


def in_processes(
    job: Callable, jobs: Sequence[tuple], workers: int = 2, scheduler: str | None = None,
    on_failure: Callable[[tuple, Exception], None] | None = None,
) -> Iterator:  # fmt: skip
    """job(*arguments) for each of `jobs`, as they finish. The progress bar says how many there are
    and, by the time that the first took, about how many minutes all of them take.

    workers: processes of this machine; one is this process itself. scheduler: the address of a Dask
    scheduler, whose workers are used instead. on_failure(arguments, error): called for a job that
    failed or whose worker died, and the others go on; without it the first such error is raised.
    Raises AirlibError if the scheduler cannot be reached or has no workers.
    """
    here = (workers <= 1 and scheduler is None) or not jobs
    outcomes = _one_by_one(job, jobs) if here else _by_dask(job, jobs, workers, scheduler)
    started, what = time.monotonic(), f"{len(jobs)} runs" if len(jobs) > 1 else "1 run"
    with closing(outcomes), track(outcomes, what, total=len(jobs)) as bar:
        for number, (arguments, result, error) in enumerate(bar):
            if number == 0 and len(jobs) > 1 and scheduler is None:
                rounds = math.ceil(len(jobs) / max(1, workers))
                wait = about(rounds * (time.monotonic() - started))
                bar.set_description(f"{what}, {wait} here")
            if error is None:
                yield result
            elif on_failure:
                on_failure(arguments, error)
            else:
                raise error


def _one_by_one(job: Callable, jobs: Iterable[tuple]) -> Generator[Outcome]:
    for arguments in jobs:
        yield _outcome(arguments, partial(job, *arguments))


def _by_dask(
    job: Callable, jobs: Sequence[tuple], workers: int, scheduler: str | None
) -> Generator[Outcome]:
    from distributed import Future

    with _client(min(workers, len(jobs)), scheduler) as client:
        waiting, running = iter(jobs), dict[Future, tuple]()
        while True:
            # As many as there are threads: with a worker dies its job, not a queue of them.
            free = max(1, sum(client.nthreads().values())) - len(running)
            for arguments in islice(waiting, max(0, free)):
                running[client.submit(_alone, job, arguments, pure=False)] = arguments
            if not running:
                return
            for future in _finished(client, list(running)):
                yield _outcome(running.pop(future), future.result)


def _alone(job: Callable, arguments: tuple) -> Any:
    import torch

    with _one_job_at_a_time:
        torch.set_num_threads(1)
        return job(*arguments)


def _outcome(arguments: tuple, result: Callable[[], Any]) -> Outcome:
    try:
        return arguments, result(), None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            return arguments, None, error
        killed = AirlibError("its process was killed (out of memory?); use fewer workers")
        killed.__cause__ = error
        return arguments, None, killed


def _finished(client: "Client", running: list["Future"]) -> Iterable["Future"]:
    """Waits for at least one of `running`."""
    from distributed import wait
    from distributed.client import CancelledError

    try:
        while True:
            try:
                with client.as_current():
                    return wait(running, timeout=PATIENCE, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise AirlibError("all workers are gone; run the same again") from error
    except (OSError, CancelledError) as error:
        raise AirlibError(f"the Dask scheduler is gone ({error}); run the same again") from error


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator["Client"]:
    """A client of the scheduler, or of processes that end with it."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
        return
    with (
        tempfile.TemporaryDirectory(prefix="airlib-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(LOCAL | {"temporary-directory": scratch}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},  # any free port
            memory_limit=None, silence_logs=CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


@contextmanager
def _connected(scheduler: str) -> Iterator["Client"]:
    from distributed import Client
    from distributed.comm import get_address_host_port

    try:
        address = get_address_host_port(scheduler)
        socket.create_connection(address, PATIENCE).close()  # a client takes a minute to give up
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise AirlibError(
            f"no Dask scheduler answers at {scheduler!r}; give the address that "
            "`dask scheduler` printed, such as tcp://10.0.0.5:8786"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise AirlibError(
                f"the Dask scheduler at {scheduler} has no workers; start some with "
                f"`dask worker {scheduler} --nthreads 1`"
            ) from error
        yield client
