"""The members of tars, from their headers."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edm2.data.tally import printable
from edm2.params import UserError
from edm2.runtime.limits import require_file

MAX_HEADERS = 1000  # extended ones (pax) of a member
REMEDY = "Shards must be uncompressed tars. Download or write this one again."


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, or of several that were joined (`cat a.tar b.tar`), from their headers.

    `tarfile` takes a truncated tar or a damaged header for the end, so the end marker is checked.

    Raises:
        UserError: a missing, truncated or corrupted tar.
    """
    try:
        require_file(path)
        with _BoundedFile(path) as file:
            start: int | None = 0
            while start is not None:
                file.seek(start)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        _check(tar, member)
                        yield member
                        tar.members = []  # type: ignore[attr-defined]  # which would grow with the tar
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end marker: truncated or corrupted")
                start = _next_tar(file)
    except (tarfile.TarError, OSError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: not a readable tar ({error}). {REMEDY}") from None


class _BoundedFile(io.BufferedReader):
    """A file of which nobody reads more bytes than it has, whatever a header says."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self.tell())
        if size is not None and size < -1:
            raise ValueError(f"a part of {size} bytes")
        return super().read(left if size is None or size < 0 else min(size, left))


def _check(tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Raises ReadError for headers that no program writes: tarfile would go back to the one before, or copy
    those for all members into each.
    """
    if member.size < 0:
        raise tarfile.ReadError(f"a member of {member.size} bytes")
    if max(len(tar.pax_headers), len(member.pax_headers)) > MAX_HEADERS:
        raise tarfile.ReadError(f"more than {MAX_HEADERS} extended headers")


def member_name(path: Path, member: str) -> str:
    """A member of a tar in messages and in lists of images: {tar}: {member}."""
    return printable(f"{path}: {member}")


def _next_tar(file: BinaryIO) -> int | None:
    """Where the zeros end that follow a tar; None if the file ends with them."""
    while block := file.read(tarfile.RECORDSIZE):
        zeros = len(block) - len(block.lstrip(b"\0"))
        if zeros < len(block):
            position = file.tell() - len(block) + zeros
            return position - position % tarfile.BLOCKSIZE
    return None
