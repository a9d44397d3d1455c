"""One shard, open: samples at any place are one read away, by its index."""

import os
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm2.data.shard_index import CHECKSUM, map_index
from edm2.params import UserError


@dataclass(frozen=True)
class Shard:
    """A tar and its index.

    Attributes:
        index_sha256: checksum of the index.
        samples: how many there are.
        bytes: size of the tar.
        mtime_ns: time of the tar; None: of any time, as it is a result, which DVC may have copied.
    """

    path: Path
    index: Path
    index_sha256: str
    samples: int
    bytes: int
    mtime_ns: int | None = None


class OpenShard:
    """A shard with an open tar and a mapped index; closed when nothing refers to it anymore."""

    def __init__(self, shard: Shard, remedy: str) -> None:
        """
        Raises:
            UserError: a file is missing, or is not the one that was indexed.
        """
        self.path, self.remedy = shard.path, remedy
        self.rows = map_index(shard.index, shard.index_sha256, remedy)
        starts = np.flatnonzero(self.rows["starts_sample"])
        self.starts = np.append(starts, len(self.rows)).tolist()  # of each sample; and the end
        self.checked = CHECKSUM[0] in (self.rows.dtype.names or ())
        try:
            self.descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(error.strerror or str(error)) from None
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if status.st_size != shard.bytes or shard.mtime_ns not in (None, status.st_mtime_ns):
            raise self._error("has another size or time than when it was indexed")

    def read(self, start: int, stop: int) -> list[dict[str, bytes]]:
        """The samples from `start` up to `stop`, by one read.

        Raises:
            UserError: they cannot be read, or are not as they were written.
        """
        rows = self.rows[self.starts[start] : self.starts[stop]]
        if not len(rows):
            return []
        begin = int(rows["offset"][0])
        data = self._read(begin, int(rows["offset"][-1] + rows["size"][-1]))
        samples: list[dict[str, bytes]] = []
        for starts, offset, size, extension, *others in rows.tolist():
            content = data[offset - begin : offset - begin + size]
            if starts:
                samples.append({})
            if self.checked and zlib.crc32(content) != others[0]:
                raise self._error(f"sample {start + len(samples) - 1} is damaged")
            samples[-1][extension.decode()] = content
        return samples

    def _read(self, begin: int, end: int) -> bytes:
        try:
            parts, position = [], begin
            while position < end:  # once, except beyond the 2 GiB that Linux reads at once
                parts.append(os.pread(self.descriptor, end - position, position))
                position += len(parts[-1])
                if not parts[-1]:
                    raise self._error(f"ends at byte {position}, expected {end} or more")
        except OSError as error:
            raise self._error(f"bytes {begin} to {end}: {os.strerror(error.errno or 0)}") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: {problem}. {self.remedy}")
