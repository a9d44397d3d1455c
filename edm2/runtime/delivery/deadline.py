"""The time that a store may take: no server can hold a process up, whatever it sends or does not send."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_OF_SILENCE = 60.0  # after which an attempt ends
MIN_BYTES_PER_SECOND = 10**6  # of files of models, which may be large


class _DeadlineReached(BaseException):
    """No Exception, so that no retry of MLflow takes it for one."""


@contextmanager
def deadline() -> Iterator[None]:
    """End the block when `allow` was called SECONDS_OF_SILENCE ago. In the main thread.

    Raises:
        TimeoutError: so long ago.
    """
    before = signal.signal(signal.SIGALRM, _raise)
    try:
        try:
            allow()
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _DeadlineReached:
        raise TimeoutError(f"no answer within {SECONDS_OF_SILENCE:g} s") from None
    finally:
        signal.signal(signal.SIGALRM, before)


def allow(size: int = 0) -> None:
    """Within `deadline`: a store has answered, and may take its time for a file of `size` bytes now."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_OF_SILENCE + size / MIN_BYTES_PER_SECOND)


def _raise(signum: int, frame: object) -> None:
    raise _DeadlineReached
