"""How much work and memory an untrusted file may cost.

Every reader of such files asks here. The limits are far above those of any real file, and what grows with
a file is bounded by the size that the file has, not by the sizes that it claims. Errors are ValueErrors, of
which readers make errors with the name of the file.
"""

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_OPCODES = 1_000_000  # of a pickle; EDM2's largest network has some 50,000
MAX_NUMBER_BYTES = 64  # of an integer in a pickle
MAX_NESTING = 100  # of containers and modules
MAX_HASHED = 1_000  # values in a key of a dict or set, counted as often as they are hashed
MAX_HASHED_TOGETHER = 10_000_000  # in all keys of a pickle
MAX_OBJECTS = 200_000  # that are made of a file, counted as often as they are used
FREE_BYTES = 2**24  # that anything may need, however small its file is
TENSOR_FACTOR = 4  # bytes of all tensors, which may share memory, for each byte of their file
ZIP_FACTOR, ZIP_FREE_BYTES = 100, 2**26  # unpacked bytes for each packed byte, of one member
MAX_FILE_BYTES = 2**30  # of one image, latent or label, and of no model
MAX_NAME = 4096  # characters of a name in an archive, as of a path on Linux
MAX_PIXELS = 178_956_970  # of an image; at that Pillow refuses them, too
MAX_SCANNED = 2**32  # pixels of a progressive JPEG, in all its scans
MAX_SHOWN = 200  # characters of what a file says, in an error


class LimitError(ValueError):
    """A file asks for more than any real one needs; the message says of what."""


class Budget:
    """Counts what is made of a file, and raises LimitError where it is too much."""

    def __init__(self, limit: int, what: str) -> None:
        """
        Args:
            what: is counted, for the error.
        """
        self.limit, self.left, self.what = limit, limit, what

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise LimitError(f"more than {self.limit} {self.what}")


def require_file(path: Path) -> None:
    """Raises OSError for what is no file: to open a named pipe waits forever, and devices may have no end.

    A path that does not exist raises FileNotFoundError.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # folders have errors of their own
        raise OSError(f"{path}: a pipe, socket or device, expected a file")


def parse_json(text: str | bytes, **options: Callable[[str], Any]) -> Any:
    """
    Args:
        options: of `json.loads`.

    Raises:
        ValueError: no JSON, nested too deeply, or with an integer of thousands of digits.
    """
    try:
        return json.loads(text, **options)  # type: ignore[arg-type]
    except RecursionError:
        raise LimitError("nested too deeply") from None


def reason_against(name: str, size: int, packed: int) -> str:
    """Why a file of an archive is not read; empty if it is.

    Args:
        size, packed: in bytes, as the archive says.
    """
    if len(name) > MAX_NAME:
        return f"name of more than {MAX_NAME} characters"
    if not 0 <= size <= MAX_FILE_BYTES:
        return f"of more than {MAX_FILE_BYTES // 2**20} MiB"
    if _unpacks_too_far(size, packed):
        return f"unpacks to more than {ZIP_FACTOR} times its size"
    return ""


def require_unpacked(member: zipfile.ZipInfo) -> None:
    """Raises LimitError for a member of an archive that unpacks to far more than its size."""
    if _unpacks_too_far(member.file_size, member.compress_size):
        raise LimitError(
            f"{shown(member.filename)} unpacks from {member.compress_size} bytes to {member.file_size}"
        )


def _unpacks_too_far(size: int, packed: int) -> bool:
    return size > max(ZIP_FREE_BYTES, ZIP_FACTOR * packed)


def shown(value: object) -> str:
    """What a file says, for an error: on one line, and cut."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        text = f"a {type(value).__name__}"
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
