"""Files and folders that are being written: their names, and the removal of those that were left.

Whatever is written appears complete or not at all: it is written as `.NAME.OWNER.partial` beside its place
and then renamed. The owner is a process of a machine, so that what a killed process has left is known; the
next process that writes into the same folder removes it. Folders that ranks write together have names
without an owner, below a folder with a lock; whoever has the lock may remove all.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import cache
from glob import escape
from itertools import chain
from pathlib import Path

PATTERN = ".*.partial"
OWNED = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial", re.DOTALL)
SECONDS_OF_OTHERS = 86400  # untouched for so long, what a process of another machine wrote is left

_in_use: set[str] = set()  # names that this process writes
_cleaned: set[tuple[int, Path]] = set()  # folders, by process: it has removed what was left there


@contextmanager
def temporary(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A new name for what becomes `path`; what has that name at the end of the block is removed.

    What ended processes have left in the same folder is removed before.

    Args:
        folder: where it is, on the same file system; None: beside `path`.
    """
    folder = path.parent if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    process, place = os.getpid(), folder.absolute()
    if (process, place) not in _cleaned:
        _cleaned.add((process, place))
        remove_abandoned(folder)
    name = f".{path.name}.{_machine()}-{process}-{secrets.token_hex(4)}.partial"
    _in_use.add(name)
    try:
        yield folder / name
    finally:
        with suppress(OSError):  # of a disk with an error, which the block has raised
            remove(folder / name)
        _in_use.discard(name)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's folder for temporary files, which only this user can read."""
    with temporary(Path(tempfile.gettempdir()) / "edm2") as folder:
        folder.mkdir(mode=0o700)
        yield folder


def shared_name(path: Path) -> Path:
    """The temporary name of a folder that several ranks write, below a folder that has a lock."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what ended processes have left in `folder`. What cannot be removed stays."""
    for path in folder.glob(PATTERN):
        if is_abandoned(path):
            with suppress(OSError):
                remove(path)


def remove_left_in(folder: Path, shared: Path | None = None) -> None:
    """Remove everything temporary below `folder`, where nobody else writes: this process has its lock.

    Args:
        shared: folder in it where others may be writing; nothing in it is removed.
    """
    for path in list(folder.rglob(PATTERN)):
        if shared is None or shared not in path.parents:
            remove(path)


def remove_left_of(path: Path) -> None:
    """Remove everything temporary of `path` and of files whose names begin with its name and a point.

    Nobody else may be writing them.
    """
    for pattern in (f".{escape(path.name)}.partial", f".{escape(path.name)}.*.partial"):
        for left in path.parent.glob(pattern):
            remove(left)


def is_temporary(path: Path) -> bool:
    """Whether the name is that of a file or folder that is being written, or was left."""
    return fnmatch(path.name, PATTERN)


def is_abandoned(path: Path) -> bool:
    """Whether nobody writes a temporary file or folder any more, for certain.

    It is one of this user; its process has ended or, on another machine or in another container, has not
    touched it for a day.
    """
    match = OWNED.fullmatch(path.name)
    try:
        status = path.lstat()
    except OSError:
        return False
    if match is None or status.st_uid != os.getuid():
        return False
    if match[1] != _machine():
        return time.time() - last_change(path) > SECONDS_OF_OTHERS
    process = int(match[2])
    return path.name not in _in_use if process == os.getpid() else not _exists(process)


def last_change(path: Path) -> float:
    """Time of the last change of a file, or of a folder and anything in it."""
    times = []
    inside = (Path(folder, name) for folder, *names in os.walk(path) for name in chain(*names))
    for each in chain([path], inside):
        with suppress(FileNotFoundError):  # removed meanwhile
            times.append(each.lstat().st_mtime)
    return max(times, default=0.0)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user
        return True
    return True


@cache
def _machine() -> str:
    """What has the numbers of its processes for itself: a container on a machine, until that is restarted."""
    identity = [socket.gethostname()]
    with suppress(OSError):  # these are Linux's
        identity.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        identity.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:8]
