"""The members of tars, from their headers."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edm2.data.tally import printable
from edm2.params import UserError

REMEDY = "Shards must be uncompressed tars. Download or write this one again."


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, or of several that were joined (`cat a.tar b.tar`), from their headers.

    `tarfile` takes a truncated tar or a damaged header for the end, so the end marker is checked.

    Raises:
        UserError: a missing, truncated or corrupted tar.
    """
    try:
        with path.open("rb") as file:
            start: int | None = 0
            while start is not None:
                file.seek(start)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    yield from tar
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end marker: truncated or corrupted")
                start = _next_tar(file)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a readable tar ({error}). {REMEDY}") from None


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
