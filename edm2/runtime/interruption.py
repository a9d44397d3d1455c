"""Ctrl-C and SIGTERM, as a request to save and stop."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_OF_ONE_CTRL_C = 1.0


class Interrupted(Exception):
    """Stopped by a signal, when all that was learned has been saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + signum


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the length of the block.

    A second Ctrl-C acts at once. One that comes with the first does not: launchers hand on what the
    terminal has sent to all.
    """
    caught: list[int] = []
    first = 0.0

    def handle(signum: int, frame: object) -> None:
        nonlocal first
        if not caught:
            caught.append(signum)
            first = time.monotonic()
        elif signum == signal.SIGINT and time.monotonic() - first > SECONDS_OF_ONE_CTRL_C:
            os._exit(128 + signum)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
