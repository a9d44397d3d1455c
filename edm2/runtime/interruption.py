"""Ctrl-C and SIGTERM: trainings save and stop, other stages stop at once."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_OF_ONE_CTRL_C = 1.0
Handler = Callable[[int, object], None]


class Interrupted(BaseException):
    """Stopped by a signal. Not an Exception, as KeyboardInterrupt is not: it is no error.

    Attributes:
        status: exit status of the process, 128 + the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + signum


def raise_at_signals() -> None:
    """From now on, SIGINT and SIGTERM raise Interrupted."""

    def interrupt(signum: int) -> None:
        raise Interrupted(signum)

    handler = _handler(interrupt)
    for signum in SIGNALS:
        signal.signal(signum, handler)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within the block, SIGINT and SIGTERM do nothing but appear in the list, the first one only."""
    received: list[int] = []
    handler = _handler(received.append)
    previous = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield received
    finally:
        for signum, old_handler in previous.items():
            signal.signal(signum, old_handler)


def exit_at_once(status: int) -> NoReturn:
    """End the process without waiting for its threads, after writing buffered output."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError):  # a closed pipe; a signal within a write
            stream.flush()
    os._exit(status)


def _handler(on_first: Callable[[int], None]) -> Handler:
    """Calls `on_first` with the first signal. A second Ctrl-C ends the process at once.

    A signal that comes with the first does nothing: launchers send the processes what the terminal
    has sent to them already.
    """
    first: float | None = None

    def handle(signum: int, frame: object) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            on_first(signum)
        elif signum == signal.SIGINT and time.monotonic() - first > SECONDS_OF_ONE_CTRL_C:
            exit_at_once(128 + signum)

    return handle
