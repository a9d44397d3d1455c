"""The index of a tar: where its files are, stored as an array of one row per file and mapped into memory.

Every process that reads a shard shares the same pages, and opening a shard reads no header of the tar.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edm2.params import UserError
from edm2.runtime.files import replacing, require_sha256

Rows = NDArray[np.void]
COLUMNS = [
    ("starts_sample", "?"),
    ("offset", "i8"),  # bytes from the start of the tar
    ("size", "i8"),  # bytes
    ("extension", "S"),
]
CHECKSUM = ("crc32", "u4")  # of the bytes: in shards that are written here


def index_path(path: Path) -> Path:
    """Where the index of a shard is."""
    return path.with_name(path.name + ".index.npy")


def index_rows(rows: Sequence[tuple[Any, ...]], *columns: tuple[str, str]) -> Rows:
    """The rows of an index: values of COLUMNS, then of further `columns`.

    A column of kind "S" has bytes of any length, without zeros at the end.
    """
    kinds = [*COLUMNS, *columns]
    widths = [
        max([1, *(len(row[k]) for row in rows)]) if kind == "S" else ""
        for k, (_, kind) in enumerate(kinds)
    ]
    dtype = [(name, f"{kind}{width}") for (name, kind), width in zip(kinds, widths, strict=True)]
    return np.array(list(rows), dtype)


def write_index(path: Path, rows: Rows) -> dict[str, Any]:
    """Write an index.

    Returns:
        the file's size and SHA-256, as in manifests.
    """
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    content = buffer.getvalue()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def map_index(path: Path, sha256: str, remedy: str) -> Rows:
    """The rows of an index, mapped into memory.

    Args:
        sha256: of the file, which is small and read whole.

    Raises:
        UserError: the file is missing, or not the one that was written.
    """
    try:
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: the index of a shard. {remedy}") from None
    require_sha256(path, checksum, sha256, "when it was written", remedy)
    rows: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows.view(np.ndarray)  # a `memmap` takes longer for everything
