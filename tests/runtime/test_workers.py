"""Worker processes: results, errors, signals, and their end."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from edm2.params import UserError
from edm2.runtime.workers import cores, in_workers


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def assert_closed(reader: Connection) -> None:
    """All processes that could write into the pipe have ended."""
    assert reader.poll(10)
    with pytest.raises(EOFError):
        reader.recv()


def test_without_workers_tasks_run_here_in_order() -> None:
    results = list(in_workers(lambda: square, [3, 4], 0))
    assert results == [(0, (9, os.getpid())), (1, (16, os.getpid()))]


def test_each_task_has_its_result_whatever_ends_first() -> None:
    def start():  # a closure: nothing of it is pickled
        return lambda task: (time.sleep(0.1 * (task == 0)), square(task))[1]

    results = dict(in_workers(start, range(6), 2))
    assert {number: value for number, (value, _) in results.items()} == {k: k**2 for k in range(6)}
    pids = {pid for _, pid in results.values()}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_no_more_workers_than_tasks() -> None:
    list(in_workers(lambda: square, [], 4))
    (result,) = in_workers(lambda: square, [5], 4)
    assert result[1][0] == 25


def test_what_a_task_raises_is_raised_here_and_ends_the_workers() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)

    def run(task: int) -> None:
        if task == 0:
            raise OSError(28, "No space left on device", "a.tar")
        time.sleep(60)

    with pytest.raises(OSError, match="a.tar") as error:
        list(in_workers(lambda: run, range(2), 2))
    assert error.value.errno == 28
    writer.close()
    assert_closed(reader)


def test_a_killed_worker_is_an_error_and_no_wait() -> None:
    with pytest.raises(UserError, match=r"runtime\.workers"):
        list(in_workers(lambda: lambda task: os.kill(os.getpid(), signal.SIGKILL), range(3), 2))


def test_signals_do_not_reach_workers() -> None:
    def run(task: object) -> set[signal.Signals]:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return signal.sigpending()

    ((_, pending),) = in_workers(lambda: run, [0], 1)
    assert pending == {signal.SIGTERM, signal.SIGINT}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # here they are as before


def test_workers_end_with_a_process_that_is_killed() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)

    def run(task: int) -> None:
        writer.send(task)
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(
        target=lambda: list(in_workers(lambda: run, range(2), 2))
    )
    parent.start()
    writer.close()
    assert {reader.recv(), reader.recv()} == {0, 1}
    parent.kill()
    parent.join()
    assert_closed(reader)


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 12
    for ranks, share in ((4, 3), (5, 2), (24, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert cores() == share
