"""Ranks that fail, end without a word or fall silent; two ranks in one process share a store."""

import os
import threading
import time

import pytest
import torch.distributed as dist

from edm2.runtime import peers
from edm2.runtime.peers import Failure, Neighbor, Peers, numbers, place_of
from edm2.runtime.progress import track


@pytest.fixture
def two() -> list[Peers]:
    """Ranks 0 and 1; their threads do not run."""
    store = dist.HashStore()
    ranks = [Peers(store, rank, 2, timeout=60.0) for rank in (0, 1)]
    for rank in ranks:
        rank.neighbor.meet(store)
    return ranks


class GoneStore(dist.HashStore):
    """A store whose process has ended."""

    def set(self, key, value):
        raise RuntimeError("Connection reset by peer\nand more")

    add = check = set


def test_the_first_rank_that_fails_says_why(two):
    first, second = two
    assert first.is_first_to_fail()
    first.publish(2, "a wrong file")
    assert not second.is_first_to_fail()
    assert second.first_failure() == Failure(0, 2, "a wrong file")


def test_a_rank_that_ends_before_it_can_say_why_leaves_it_to_the_next(two, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 0.0)
    assert two[0].is_first_to_fail()
    assert two[1].is_first_to_fail()


def test_without_a_store_each_rank_says_why(two):
    two[0].store = GoneStore()
    assert two[0].first_failure(60.0) is None
    assert two[0].is_first_to_fail()


def test_a_process_that_has_ended_is_named(two):
    if not (process := os.fork()):
        os._exit(0)
    neighbor, store = Neighbor(1), two[0].store
    store.set("process/1", f'["{os.uname().nodename}", {process}, {peers._namespace()}]')
    neighbor.meet(store)  # it is a zombie, or still runs
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    problem = neighbor.problem(store, 1.0, 60.0)
    os.waitpid(process, 0)
    assert f"rank 1 (process {process} on {os.uname().nodename})" in problem
    store.set("left/1", "")  # as a rank does at the end of its work
    assert neighbor.problem(store, 1.0, 60.0) is None


def test_a_rank_that_does_not_beat_for_the_timeout_is_named(two):
    neighbor, store = two[0].neighbor, two[0].store

    def problems(count):
        return [neighbor.problem(store, 20.0, 60.0) for _ in range(count)]

    assert problems(3) == [None] * 3  # the first one sees a beat
    two[1]._beat()
    assert problems(3) == [None] * 3
    assert "has not responded for 1 minutes (runtime.timeout_minutes)" in problems(1)[0]


def test_late_ranks_are_named_with_the_code_where_they_are(two, monkeypatch):
    store = two[0].store
    group = Peers(store, 0, 4, 60.0)
    for rank, place in ((1, "a.py:1 (f)"), (2, "b.py:2 (g)"), (3, "a.py:1 (f)")):
        store.set(f"beat/{rank}", f"1 {place}")

    def sleep(seconds):
        store.set("beat/1", "2 a.py:1 (f)")
        store.set("beat/3", "2 a.py:1 (f)")

    monkeypatch.setattr(time, "sleep", sleep)
    assert group.places() == "rank 2 is silent; ranks 1, 3 are in a.py:1 (f)."


def test_a_thread_is_in_its_innermost_function_of_edm2():
    event, started = threading.Event(), threading.Event()

    def items():
        started.set()
        event.wait()
        yield

    thread = threading.Thread(target=lambda: list(track(items(), "title", 1, "img")))
    thread.start()
    assert started.wait(30)
    try:
        place = place_of(thread.ident)
    finally:
        event.set()
        thread.join()
    assert place.startswith("edm2/runtime/progress.py:")
    assert place.endswith("(track)")
    assert place_of(threading.get_ident()) == "code outside edm2"


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([3], "rank 3"), ([0, 1, 2, 5], "ranks 0-2, 5"), ([0, 2, 3], "ranks 0, 2-3")],
)
def test_ranks_are_listed_as_intervals(ranks, text):
    assert numbers(ranks) == text


@pytest.fixture
def ended(monkeypatch):
    """The statuses with which threads ended the process."""
    statuses: list[int] = []
    event = threading.Event()

    def end(self, status):
        statuses.append(status)
        self.closed.set()
        event.set()

    monkeypatch.setattr(Peers, "_end", end)
    return lambda: event.wait(30) and statuses


def test_a_failure_ends_the_others_with_its_status(two, ended):
    two[0].interval = 0.001
    two[0].start()
    two[1].publish(143, "stopped by SIGTERM")
    assert ended() == [143]


def test_a_silent_rank_ends_the_launch(two, ended, capsys):
    two[0].interval, two[0].timeout = 0.001, 0.002
    two[0].start()
    assert ended() == [1]
    assert two[1].first_failure().rank == 0
    assert "rank 1 " in capsys.readouterr().err


def test_the_end_of_the_store_ends_the_launch(two, ended, capsys, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host")
    monkeypatch.setenv("MASTER_PORT", "29400")
    two[0].interval = 0.001
    two[0].neighbor.meet = lambda store: None
    two[0].store = GoneStore()
    two[0].start()
    assert ended() == [1]
    error = capsys.readouterr().err
    assert (
        "rank 0 has lost what connects the ranks, at host:29400 (Connection reset by peer)" in error
    )
    assert "Run the same command again" in error


def test_a_rank_that_leaves_is_not_missed(two, ended):
    two[0].interval = two[1].interval = 0.001
    two[0].start()
    two[1].start()
    two[1].close()
    beats = two[0].beats
    while two[0].beats < beats + 3:
        time.sleep(0.001)
    two[0].close()
    assert two[0].first_failure() is None
    assert two[0].neighbor.problem(two[0].store, 60.0, 60.0) is None
