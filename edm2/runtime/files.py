"""Files that are complete or absent: written under a temporary name, then renamed; their checksums."""

import errno
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from typing import Any, BinaryIO

from edm2.params.errors import NotFiniteError, UserError
from edm2.runtime.limits import require_file
from edm2.runtime.system_errors import WHILE_WRITING
from edm2.runtime.temporaries import remove, remove_abandoned, temporary

SHOWN_DIGITS = 12  # of a checksum, in errors
os.umask(UMASK := os.umask(0o077))  # the system tells it only to those who set it
MODE = 0o666 & ~UMASK  # of a new file


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path that is renamed to `path` when the block ends without an error.

    Who may read the file is up to the umask, whatever writes it: safetensors would let its owner alone.

    Args:
        durable: whether to wait for the disk, so that the file is complete even after a power cut.
            Large files with a checksum that can be computed again need not wait.
    """
    try:
        with temporary(path) as partial:
            yield partial
            if S_IMODE(partial.stat().st_mode) != MODE:
                partial.chmod(MODE)
            if durable:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            partial.replace(path)
    except Exception as error:
        error.add_note(f"{WHILE_WRITING}{path}")
        raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any) -> None:
    """
    Raises:
        NotFiniteError: a number is NaN or infinite, which JSON does not have.
    """
    for key, value in _numbers(tree):
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{path}: {key}: {value}: expected a finite number. Find the step that made it: see "
                "the logs and tables of the stages before."
            )
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def _numbers(tree: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The floats of a tree, by their keys: a.b.0."""
    if isinstance(tree, float):
        yield key, tree
    elif isinstance(tree, Mapping | list | tuple):
        for name, node in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _numbers(node, f"{key}.{name}" if key else str(name))


def sha256(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """Checksum of a file.

    Args:
        advance: called with the number of bytes after each read.
    """
    with _ReadingFile(path, advance) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sha256(path: Path, checksum: str, expected: str, source: str, remedy: str) -> None:
    """
    Args:
        checksum, expected: SHA-256 of `path` as it is, and as it should be.
        source: what has the expected one, for the error.
        remedy: what to do, as a sentence.

    Raises:
        UserError: the two differ.
    """
    if checksum != expected:
        raise UserError(
            f"{path}: SHA-256 {checksum[:SHOWN_DIGITS]}…, expected {expected[:SHOWN_DIGITS]}… {source}: "
            f"corrupted, or another file. {remedy}"
        )


class _ReadingFile(io.FileIO):
    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        require_file(path)
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        self._advance(size)
        return size


class HashingWriter:
    """Writes to a file and takes its size and SHA-256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self._sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def entry(self) -> dict[str, Any]:
        """Size and SHA-256 of what was written, as in manifests."""
        return {"bytes": self.size, "sha256": self._sha256.hexdigest()}


def describe(files: Iterable[Path]) -> str:
    """Name, size and modification time of each file, one line each: quick to compare."""
    stats = ((path, path.stat()) for path in files)
    return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def link(source: Path, target: Path, scratch: Path | None = None) -> None:
    """Replace `target` by the file or folder `source`, in one step and without using disk space.

    Files become hard links, or copies where the file system has no links.

    Args:
        scratch: folder where the links are made before they are renamed to `target`; where that is on
            another file system, and by default, they are made beside it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if scratch is not None:
        remove_abandoned(target.parent)
        try:
            return _link_within(source, target, scratch)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    _link_within(source, target, target.parent)


def _link_within(source: Path, target: Path, folder: Path) -> None:
    with temporary(target, folder) as partial:
        if source.is_dir():
            shutil.copytree(source, partial, copy_function=_link)
        else:
            _link(str(source), str(partial))
        if source.is_dir() or target.is_dir():
            remove(target)
        if not (target.exists() and target.samefile(partial)):
            partial.replace(target)  # renaming one link of a file to another would do nothing


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
