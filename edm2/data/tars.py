"""Tars made elsewhere, read in any order through an index of their files, which is stored.

A tar is indexed once: by one of all processes that need it, while the others index other tars. It is indexed
again if its path, size or time changes, or the code that does it.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from edm2.data.open_shard import Shard
from edm2.data.shard_index import index_rows, write_index
from edm2.data.shards import Samples
from edm2.data.tally import printable
from edm2.data.tar_members import REMEDY, member_name, members
from edm2.params import UserError
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.distributed import ranks
from edm2.runtime.locks import exclusive
from edm2.runtime.progress import track

Member = tuple[str, str, tarfile.TarInfo]  # name without ending, ending, position
NAME = ("name", "S")  # in the tar
INDICES = Path(".state/tar-indices")  # in the project


class Scan(Protocol):
    """Chooses the files of one tar that are indexed.

    Attributes:
        identity: of what it does: indices of another one are not used.
    """

    identity: str

    def __call__(self, path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Member]: ...

    def notes(self) -> dict[str, Any]:
        """What else is to be stored, as JSON; asked after the last member."""
        ...


class TarFiles(Samples):
    """The files in some tars, in order; each is a sample.

    Indexing reads the header of every file, about 20,000 per second on a fast disk. After that, opening reads
    one small file per tar.

    Attributes:
        notes: of the scan of each tar.
    """

    def __init__(self, paths: Sequence[Path], scan: Callable[[], Scan], folder: Path) -> None:
        """
        Args:
            scan: makes the scan of a tar.
            folder: where indices are stored.

        Raises:
            UserError: a missing, truncated or corrupted tar.
        """
        indices = [_StoredIndex(path, scan, folder) for path in paths]
        _make_missing(indices)
        stored = [index.read() for index in indices]
        super().__init__([shard for shard, _ in stored], REMEDY)
        self.notes = [notes for _, notes in stored]

    def read(self, index: int) -> bytes:
        (content,) = self[index].values()
        return content

    def name(self, index: int) -> str:
        """The file in messages, with its tar."""
        shard, number = self.locate(index)
        return member_name(self.shards[shard].path, self.names(shard)[number])

    def names(self, shard: int) -> list[str]:
        """The names of the files in one tar, by the number of the tar."""
        column = self._open(shard).rows[NAME[0]]
        return [name.decode("utf-8", "surrogateescape") for name in column.tolist()]


def _make_missing(indices: Sequence["_StoredIndex"]) -> None:
    """Index the tars that are not; processes that do this together share them.

    Each starts at another tar, and leaves out those that another one is indexing until there is nothing
    else to do.
    """
    missing = [index for index in indices if not index.exists()]
    first = len(missing) * ranks().rank // ranks().world_size
    missing = missing[first:] + missing[:first]
    for index in track(missing, "index", len(missing), "tar"):
        index.make(wait=False)
    for index in missing:
        index.make(wait=True)


class _StoredIndex:
    """The index of one tar, in two files: its rows, and a description, which is written last."""

    def __init__(self, path: Path, scan: Callable[[], Scan], folder: Path) -> None:
        self.path, self.scan = path, scan
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: not a readable tar ({error}). {REMEDY}") from None
        self.bytes, self.mtime_ns = status.st_size, status.st_mtime_ns
        self.place = _digest(str(path), scan().identity)
        key = _digest(str(self.bytes), str(self.mtime_ns), _code())
        self.rows = folder / f"{self.place}-{key}.npy"
        self.description = self.rows.with_suffix(".json")

    def exists(self) -> bool:
        return self.description.exists() and self.rows.exists()

    def make(self, wait: bool) -> None:
        """Index the tar, unless that has been done, or (without `wait`) another process does it."""
        if self.exists():
            return
        with exclusive(self.rows.with_suffix(".lock"), wait) as held:
            if held and not self.exists():
                self._write()

    def _write(self) -> None:
        scan = self.scan()
        rows = [
            (
                True,
                m.offset_data,
                m.size,
                ending.encode(),
                m.name.encode("utf-8", "surrogateescape"),
            )
            for _, ending, m in scan(self.path, members(self.path))
        ]
        before = set(self.rows.parent.glob(f"{self.place}-*"))
        entry = write_index(self.rows, index_rows(rows, NAME))
        content = {"files": len(rows), "index": entry, "notes": scan.notes()}
        write_checked(self.description, {"tar": printable(str(self.path)), **content})
        for path in before - {self.rows, self.description, self.rows.with_suffix(".lock")}:
            path.unlink(missing_ok=True)  # of the tar as it was

    def read(self) -> tuple[Shard, dict[str, Any]]:
        content = read_checked(self.description, "Run this again.", "Remove it and run this again.")
        checksum = content["index"]["sha256"]
        shard = Shard(self.path, self.rows, checksum, content["files"], self.bytes, self.mtime_ns)
        return shard, content["notes"]


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:20]


@cache
def _code() -> str:
    """Checksum of the code of this package, on which an index depends."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
