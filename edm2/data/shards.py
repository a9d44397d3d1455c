"""WebDataset shards: written by `webdataset`, read in any order through an index of the tars.

A shard is an uncompressed tar, so every sample has a fixed position in it. Reading by index instead
of in sequence gives exact epochs, any number of ranks and workers on any number of shards, and
training that resumes in the middle of an epoch.

Beside a shard are its index ({shard}.index.npy) and its record ({shard}.record.json), which has the
checksums of both and the number of samples. All are written at once; a shard that exists has both.
"""

import resource
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, Protocol

import numpy as np

from edm2.data.open_shard import OpenShard, Shard
from edm2.data.shard_index import CHECKSUM, index_path, index_rows, write_index
from edm2.params import UserError
from edm2.runtime.files import HashingWriter, replacing
from edm2.runtime.manifest import REBUILD_HINT, check_sizes, load_manifest
from edm2.runtime.records import RECORD_ENDING, Entry, record_path, write_record

VERIFY_HINT = "Run `edm2 verify`: it reads everything and names what is damaged."
DESCRIPTORS_PER_SHARD = 4  # the tar, the mapping of its index, and as many for everything else


def write_shard(
    path: Path,
    samples: Iterable[Mapping[str, Any]],
    summary: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Write one shard with its index and record; the tar appears last, when all is complete.

    Size, checksums and index are taken while the samples are written; nothing is read again.

    Args:
        samples: dicts of `__key__` and one bytes value per file extension.
        summary: called after the last sample; what it returns is kept in the record, as JSON.
    """
    import webdataset as wds  # only writing needs it

    with replacing(path) as temporary, temporary.open("wb") as file:
        stream = HashingWriter(file)
        # fixed time and owner: equal samples give equal shards
        with wds.TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            rows = [row for sample in samples for row in _write_sample(writer, sample)]
        file.flush()
        index = index_path(path)
        count = sum(row[0] for row in rows)
        entries = {
            path.name: {**stream.entry(), "samples": count},
            index.name: write_index(index, index_rows(rows, CHECKSUM)),
        }
        write_record(path, entries, **summary())


def is_written(path: Path) -> bool:
    """Whether a shard exists with its index and its record; others are written again."""
    return all(file.exists() for file in (path, index_path(path), record_path(path)))


def _write_sample(writer: Any, sample: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Write a sample's files, in the order of their extensions; yields their rows of the index."""
    first = True
    for extension in sorted(key for key in sample if key != "__key__"):
        content = sample[extension]
        writer.write({"__key__": sample["__key__"], extension: content})
        offset = writer.tarstream.offset - -(-len(content) // BLOCKSIZE) * BLOCKSIZE
        yield (
            first,
            offset,
            len(content),
            extension.encode(),
            zlib.crc32(content),
        )
        first = False


class Buffer(Protocol):
    """Where samples come from instead of single reads; see `edm2.data.block_buffer`."""

    def take(self, index: int) -> dict[str, bytes]: ...


class Samples:
    """The samples in some shards, in order. Item i is a dict from file extension to bytes.

    Opening them costs time by shard, not by sample. Shards are opened when a sample is read, and stay
    open, as many as the limit of file descriptors allows. Can be pickled, and read by several
    threads, and by processes after a fork: no position in a file is shared.
    """

    def __init__(self, shards: Sequence[Shard], remedy: str = VERIFY_HINT) -> None:
        """`remedy` is the last sentence of errors: what to do about a shard that cannot be read."""
        self.shards, self.remedy = list(shards), remedy
        self.ends = np.cumsum([shard.samples for shard in shards], dtype=np.int64)
        self.buffer: Buffer | None = None
        self._open = self._opener()

    def _opener(self) -> Callable[[int], OpenShard]:
        shards, remedy = self.shards, self.remedy  # no cycle: shards close when `self` is gone
        limit = _descriptors(len(shards) * DESCRIPTORS_PER_SHARD)
        size = max(1, limit // DESCRIPTORS_PER_SHARD)
        return lru_cache(size)(lambda k: OpenShard(shards[k], remedy))

    def __getstate__(self) -> dict[str, Any]:
        return {n: value for n, value in vars(self).items() if n not in ("_open", "buffer")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.buffer = None
        self._open = self._opener()

    @property
    def paths(self) -> list[Path]:
        return [shard.path for shard in self.shards]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> dict[str, bytes]:
        """Read one sample, by one read.

        Raises:
            UserError: it cannot be read, or is not as it was written; names the shard.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.buffer is not None:
            return self.buffer.take(index)
        shard, number = self.locate(index)
        return self._open(shard).read(number, number + 1)[0]

    def __iter__(self) -> Iterator[dict[str, bytes]]:
        return (self[index] for index in range(len(self)))

    def read_range(self, start: int, stop: int) -> list[dict[str, bytes]]:
        """The samples from `start` up to `stop`, which are in one shard, by one read.

        Raises:
            IndexError: they are not in one shard (see `ranges`).
            UserError: see `__getitem__`.
        """
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"{start} to {stop}")
        shard, number = self.locate(start)
        if stop > self.ends[shard]:
            raise IndexError(f"{start} to {stop}: in more than one shard")
        return self._open(shard).read(number, number + stop - start)

    def locate(self, index: int) -> tuple[int, int]:
        """The number of a sample's shard, and its number there."""
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return shard, index - (int(self.ends[shard - 1]) if shard else 0)

    def ranges(self) -> list[range]:
        """The indices of each shard's samples."""
        return [range(*bounds) for bounds in pairwise([0, *self.ends.tolist()])]


class Shards(Samples):
    """The samples of one split in a folder of shards, in the order in which they were written."""

    def __init__(self, folder: Path, split: str) -> None:
        """Read the manifest, and check the sizes of this split's files.

        Raises:
            UserError: no manifest, no such split, or a missing or truncated shard.
        """
        self.folder = folder
        self.metadata = load_manifest(folder)
        listed = self.metadata["files"]
        del self.metadata["files"]  # large: not to be pickled with this
        files = {
            name: listed[name]
            for name in sorted(listed)
            if name.startswith(f"{split}-") and not name.endswith(RECORD_ENDING)
        }
        names = [name for name in files if name.endswith(".tar")]
        if not names:
            raise UserError(
                f"{folder}: contains no shards of split {split!r}. Run the stage that writes them."
            )
        check_sizes(folder, files)
        super().__init__([_listed(folder / name, files) for name in names])

    def by_shard(self) -> dict[str, range]:
        """The indices of each shard's samples, by the shard's file name."""
        return dict(zip((path.name for path in self.paths), self.ranges(), strict=True))


def _descriptors(needed: int) -> int:
    """Let this process open `needed` files, or as many as the system allows; returns how many."""
    limit, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (limit, maximum):
        needed = min(needed, maximum)
    if limit != resource.RLIM_INFINITY and limit < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, maximum))
    return needed


def _listed(path: Path, files: Mapping[str, Entry]) -> Shard:
    """A shard by the entries of a manifest or record."""
    entry, index = files[path.name], index_path(path)
    if "samples" not in entry or index.name not in files:
        raise UserError(f"{path}: has no index, as `write_shard` did not write it. {REBUILD_HINT}")
    return Shard(path, index, files[index.name]["sha256"], entry["samples"], entry["bytes"])
