"""Ctrl-C, SIGTERM and SIGUSR1: trainings save and stop, other stages stop at once."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SECONDS_OF_ONE_SIGNAL = 2.0  # in which a terminal, a scheduler and a launcher send the same one
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
    """From now on, SIGNALS raise Interrupted."""

    def interrupt(signum: int) -> None:
        raise Interrupted(signum)

    handler = _handler(interrupt)
    for signum in SIGNALS:
        signal.signal(signum, handler)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within the block, SIGNALS do nothing but appear in the list, the first one only.

    Raises:
        Interrupted: when the block ends without an error and the list is not empty, so that none is lost
            which comes when nobody reads the list any more.
    """
    received: list[int] = []
    handler = _handler(received.append)
    previous = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield received
    finally:
        for signum, old_handler in previous.items():
            signal.signal(signum, old_handler)
    if received:
        raise Interrupted(received[0])


def exit_at_once(status: int) -> NoReturn:
    """End the process without waiting for its threads, after writing buffered output."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError):  # a closed pipe; a signal within a write
            stream.flush()
    os._exit(status)


def _handler(on_first: Callable[[int], None]) -> Handler:
    """Calls `on_first` with the first signal. A second SIGINT or SIGTERM ends the process at once.

    SIGUSR1 announces the end of a job's time, and SIGTERM follows: together they are one request to stop.
    """
    received = False
    stop_requested: float | None = None  # by SIGINT or SIGTERM

    def handle(signum: int, frame: object) -> None:
        nonlocal received, stop_requested
        if signum != signal.SIGUSR1:
            if stop_requested is None:
                stop_requested = time.monotonic()
            elif time.monotonic() - stop_requested > SECONDS_OF_ONE_SIGNAL:
                exit_at_once(128 + signum)
        if not received:
            received = True
            on_first(signum)

    return handle
