"""Locks between processes: files that one process at a time holds."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edm2.params import UserError


@contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock `path` within the block; it ends with the process, too.

    Yields:
        Whether this process holds it; without `wait` another one may.
    """
    with _locked(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)) as is_held:
        yield is_held


def is_held(path: Path) -> bool:
    """Whether a process holds the lock `path`. Nothing is written, and nobody waits for this."""
    try:
        with path.open("r+b") as lock:  # as NFS wants it, without making the file
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or another user's
        return True
    return False


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold the lock `path` within the block, as others may at the same time: none has it `exclusive`."""
    with _locked(path, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[bool]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:  # NFS wants to read for shared locks, and to write for others
        try:
            fcntl.flock(lock, operation)
        except BlockingIOError:
            yield False
        except OSError as error:
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}). Use a file system with locks between "
                "processes and machines (for Lustre: mounted with flock; for NFS: with its lock service)."
            ) from None
        else:
            yield True
