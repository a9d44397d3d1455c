"""What the ranks of one launch know of each other: who failed first, who is gone, who is late.

A thread on each rank writes a beat into the launch's store every second, which says where the rank is.
It watches the next rank, in a ring: whether its process exists, if it is on the same machine, and whether it
still beats. When a rank has failed, the threads of the others end their processes.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from edm2.runtime.interruption import exit_at_once

INTERVAL = 1.0  # seconds between beats; less if the timeout is short
GRACE = 10.0  # seconds for the main thread to end the process in its own way
PACKAGE = Path(__file__).parents[1]
WAITING = ("peers.py", "distributed.py")  # modules that wait for other ranks


class Store(Protocol):
    """The part of `torch.distributed.Store` that is used."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Failure:
    """Why a launch ends: the rank that failed first, its exit status and what it has printed."""

    rank: int
    status: int
    message: str


class PeerFailedError(RuntimeError):
    """Another rank has failed."""


class LateRankError(PeerFailedError):
    """Another rank does not arrive."""


class Peers:
    """This rank among the others. Only the first rank that fails prints why.

    Args:
        store: a connection that nothing else uses.
        timeout: seconds of silence after which a rank counts as gone.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.interval = min(INTERVAL, timeout / 4)
        self.failure: Failure | None = None  # the first of the launch, once known
        self.main_thread = threading.get_ident()
        self.closed = threading.Event()
        self.leaving = False  # set when only the end is left: the store may end before this rank
        self.beats = 0
        self.neighbor = Neighbor((rank + 1) % size)
        store.set(f"process/{rank}", json.dumps([socket.gethostname(), os.getpid(), _namespace()]))
        self._beat()
        self.thread = threading.Thread(target=self._watch, name="peers", daemon=True)

    def start(self) -> None:
        """Watch from now on; all ranks have been constructed."""
        self.neighbor.meet(self.store)
        self.thread.start()

    def close(self) -> None:
        """End watching; the others no longer expect a beat."""
        with suppress(Exception):  # the process that has the store may have ended
            self.store.set(f"left/{self.rank}", "")
        self.closed.set()
        self.thread.join()
        if self.neighbor.handle is not None:
            os.close(self.neighbor.handle)

    def first_failure(self, seconds: float = 0.0) -> Failure | None:
        """The first failure of the launch; if there is none, wait up to `seconds` for one."""
        end = time.monotonic() + seconds
        with suppress(Exception):  # the store is gone
            while self.failure is None:
                if self.store.check(["failure"]):
                    self.failure = Failure(**json.loads(self.store.get("failure")))
                elif time.monotonic() >= end:
                    break
                else:
                    time.sleep(0.05)
        return self.failure

    def is_first_to_fail(self) -> bool:
        """Whether this rank has to print why the launch ends, and to `publish` it.

        Also if another one was first and then ended before it could.
        """
        if self.first_failure() is not None:
            return False
        try:
            return self.store.add("failures", 1) == 1 or self.first_failure(GRACE) is None
        except Exception:  # the store is gone: nobody can say it for all
            return True

    def publish(self, status: int, message: str) -> None:
        """Let the other ranks end as well."""
        self.failure = Failure(self.rank, status, message)
        with suppress(Exception):
            self.store.set("failure", json.dumps(asdict(self.failure)))

    def places(self) -> str:
        """Where the other ranks are, as a sentence: those that do not beat, and the code of the rest."""
        places = defaultdict(list)
        try:
            before = self._all_beats()
            time.sleep(2 * self.interval)
            now = self._all_beats()
        except Exception as error:
            return f"Where the others are is unknown ({error})."
        for rank, (count, place) in now.items():
            if rank != self.rank:
                places["silent" if before[rank][0] == count else f"in {place}"].append(rank)
        rarest_first = sorted(places.items(), key=lambda item: len(item[1]))
        texts = (f"{'is' if len(r) == 1 else 'are'} {place}" for place, r in rarest_first)
        ranks = (numbers(r) for _, r in rarest_first)
        return "; ".join(f"{which} {text}" for which, text in zip(ranks, texts, strict=True)) + "."

    def _all_beats(self) -> Mapping[int, tuple[int, str]]:
        beats = {rank: self.store.get(f"beat/{rank}").decode() for rank in range(self.size)}
        return {
            rank: (int(beat.split()[0]), beat.partition(" ")[2]) for rank, beat in beats.items()
        }

    def _beat(self) -> None:
        self.beats += 1
        self.store.set(f"beat/{self.rank}", f"{self.beats} {place_of(self.main_thread)}")

    def _watch(self) -> None:
        while not self.closed.wait(self.interval):
            try:
                self._beat()
                if failure := self.first_failure():
                    self._end(failure.status)
                elif problem := self.neighbor.problem(self.store, self.interval, self.timeout):
                    self._fail(problem)
            except Exception as error:  # of the store
                if self.leaving:
                    return
                self._lost(error)

    def _fail(self, problem: str) -> None:
        if self.is_first_to_fail():
            self._print(problem)
            self.publish(1, problem)

    def _lost(self, error: Exception) -> None:
        """Without the store, each machine says so itself."""
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0]
        problem = (
            f"rank {self.rank} has lost what connects the ranks, at {address} ({reason}): the launcher, or "
            "its machine, has ended. Run the same command again to continue."
        )
        if self.failure is None and os.environ.get("LOCAL_RANK", "0") == "0":
            self._print(problem)
        self.publish(1, problem)
        self._end(1)

    def _end(self, status: int) -> None:
        """End the process, unless its main thread does so before, or all is done."""
        if not self.closed.wait(GRACE):
            exit_at_once(status)

    def _print(self, problem: str) -> None:
        print(f"{Path(sys.argv[0]).stem}: {problem}", file=sys.stderr, flush=True)


class Neighbor:
    """The rank that this one watches."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.host, self.process = "", 0
        self.handle: int | None = None  # of its process, if it is on this machine
        self.beat = b""
        self.silence = 0.0  # counted, not timed: a launch that was stopped as a whole goes on

    def meet(self, store: Store) -> None:
        self.host, self.process, namespace = json.loads(store.get(f"process/{self.rank}"))
        if (self.host, namespace) == (socket.gethostname(), _namespace()) and namespace:
            self.handle = os.pidfd_open(self.process)

    def problem(self, store: Store, interval: float, timeout: float) -> str | None:
        """What is wrong with it, as a sentence."""
        gone = self._has_ended()
        if store.check([f"left/{self.rank}"]) or store.check(["failure"]):
            return None
        name = f"rank {self.rank} (process {self.process} on {self.host})"
        if gone:
            return (
                f"{name} has ended without a word: it was killed, perhaps because memory ran out, or has "
                "crashed. Run the same command again to continue."
            )
        beat = store.get(f"beat/{self.rank}")
        self.silence = 0.0 if beat != self.beat else self.silence + interval
        self.beat = beat
        if self.silence < timeout:
            return None
        return (
            f"{name} has not responded for {timeout / 60:g} minutes (runtime.timeout_minutes): it is "
            f"stopped, or its machine is. It was last in {beat.decode().partition(' ')[2]}."
        )

    def _has_ended(self) -> bool:
        if self.handle is None:
            return False
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(0))


def _namespace() -> int:
    """In which process numbers have a meaning; 0 where processes cannot be watched."""
    return os.stat("/proc/self/ns/pid").st_ino if hasattr(os, "pidfd_open") else 0


def place_of(thread: int) -> str:
    """Where a thread is: its innermost function in edm2, with file and line."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) and path.name not in WAITING:
            return f"{path.relative_to(PACKAGE.parent)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "code outside edm2"


def numbers(ranks: list[int]) -> str:
    """Ranks as text: rank 3; ranks 0-2, 5."""
    starts = [r for r in ranks if r - 1 not in ranks]
    ends = [r for r in ranks if r + 1 not in ranks]
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(parts)}"


_current: Peers | None = None


def current() -> Peers | None:
    """The other ranks of this process's group; None if it has no group."""
    return _current


def set_current(peers: Peers | None) -> None:
    global _current
    _current = peers
