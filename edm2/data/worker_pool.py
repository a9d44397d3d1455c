"""Worker processes that read batches, by PyTorch's `DataLoader`.

They are forked by a server process, which has imported what they need and has no threads. They see no
signals, and end with the main process in whatever way.
"""

import atexit
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from edm2.data.packing import Packed
from edm2.params.registry import import_file, loaded_files
from edm2.runtime.workers import blocked_signals, end_with_parent

PREFETCHED = 2  # parts that a worker reads ahead
SECONDS_TO_END = 1.0


class Work(Protocol):
    """What one worker reads; it is pickled."""

    @property
    def read(self) -> Any: ...

    def parts(self) -> Iterator[Packed]: ...


class _WorkerTraceback(Exception):
    """Where an error was raised, in a worker."""


@dataclass(frozen=True)
class Failure:
    """An error in a worker; DataLoader would turn it into one with another message."""

    error: Exception
    traceback: str

    @staticmethod
    def of(error: Exception) -> "Failure":
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever its class does
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Failure(error, text)


class _Parts(IterableDataset[Packed | Failure]):
    """The parts of this process's share of the work. Plug-ins are imported before it is unpickled."""

    def __init__(self, work: Sequence[Work]) -> None:
        self.work = work

    def __getstate__(self) -> tuple[list[Path], bytes]:
        return loaded_files(), pickle.dumps(self.work)

    def __setstate__(self, state: tuple[list[Path], bytes]) -> None:
        for path in state[0]:
            import_file(path)
        self.work = pickle.loads(state[1])

    def __iter__(self) -> Iterator[Packed | Failure]:
        worker = get_worker_info()
        assert worker is not None  # this is one
        try:
            yield from self.work[worker.id].parts()
        except Exception as error:
            yield Failure.of(error)


def from_workers(work: Sequence[Work]) -> Iterator[list[Packed]]:
    """Lists of one part from each worker; there is a worker for each item of `work`.

    On a GPU's host, parts are in pinned memory.

    Raises:
        Exception: what was raised in a worker.
        RuntimeError: a worker was killed.
    """
    loader = _loader(work)
    others, before = set(active_children()), set(threading.enumerate())
    with blocked_signals():  # also in the process that this starts; it would unblock them later
        resource_tracker.ensure_running()
    with blocked_signals():  # in workers from the first moment on
        parts = iter(loader)
    workers, threads = set(active_children()) - others, set(threading.enumerate()) - before
    atexit.register(_kill, workers)  # before multiprocessing's, which waits for them
    try:
        while True:
            batch = [next(parts) for _ in work]
            for part in batch:
                if isinstance(part, Failure):
                    raise part.error from _WorkerTraceback(part.traceback)
            yield batch
    finally:
        del parts  # ends the workers, unless the traceback of an error keeps it
        if not sys.is_finalizing():
            _kill(workers)
            _wait_for(threads)


def _loader(work: Sequence[Work]) -> DataLoader[Packed | Failure]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", type(work[0].read).__module__])
    return DataLoader(
        _Parts(work),
        batch_size=None,
        num_workers=len(work),
        collate_fn=_as_it_is,
        worker_init_fn=_start,
        multiprocessing_context=context,
        prefetch_factor=PREFETCHED,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its numbers are not used; leave PyTorch's own as they are
    )


def _as_it_is(part: Any) -> Any:
    return part


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()  # no other signal reaches them


def _wait_for(threads: Iterable[threading.Thread]) -> None:
    """Until they end: they hold semaphores, which Python would call leaked at a sudden exit."""
    end = time.monotonic() + SECONDS_TO_END
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _start(worker: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
