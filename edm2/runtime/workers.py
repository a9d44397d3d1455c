"""Worker processes of one rank."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, TypeVar

from edm2.params import UserError
from edm2.runtime.interruption import SIGNALS

T = TypeVar("T")
R = TypeVar("R")

_run: Callable[[Any], Any]  # of this worker


def cores() -> int:
    """CPU cores for this rank: those that this process may use, shared by the ranks of the machine."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def in_workers(
    start: Callable[[], Callable[[T], R]], tasks: Sequence[T], workers: int
) -> Iterator[tuple[int, R]]:
    """The number of each task and its result, in the order in which they are done.

    The processes are forked, so that they share what is in memory. Signals are for the main process:
    they do not reach a worker, which ends when the iterator is closed or the main process ends.

    Args:
        start: called in each process; returns what runs a task there.
        workers: largest number of processes; 0: all tasks run in this one.

    Raises:
        UserError: a worker was killed. Whatever a task raises is raised here as well.
    """
    workers = min(workers, len(tasks))
    if not workers:
        run = start()
        yield from ((number, run(task)) for number, task in enumerate(tasks))
        return
    pool = ProcessPoolExecutor(workers, get_context("fork"), _start_worker, (start,))
    others = set(active_children())
    try:
        with blocked_signals():  # in workers from the first moment on
            futures = {pool.submit(_call, task): number for number, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out. Set runtime.workers below "
            f"{workers}, then run this again: what is complete is kept."
        ) from None
    finally:
        for process in set(active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


@contextmanager
def blocked_signals() -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start_worker(start: Callable[[], Callable[[T], R]]) -> None:
    global _run
    Thread(target=end_with_parent, daemon=True).start()
    _run = start()


def _call(task: Any) -> Any:
    return _run(task)


def end_with_parent() -> None:
    """End this process when the one that started it has ended, in whatever way."""
    parent = parent_process()
    assert parent is not None  # this is a worker
    wait([parent.sentinel])
    os._exit(1)
