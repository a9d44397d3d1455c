"""WebDataset shards: written by `webdataset`, read at random through an index of the tars.

A shard is an uncompressed tar, so every sample has a fixed place in it. Reading by index instead
of in sequence gives exact epochs, any number of ranks and workers on any number of shards, and
training that resumes in the middle of an epoch.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from edm2.params import UserError
from edm2.runtime.files import replacing
from edm2.runtime.manifest import WAY_OUT, read_manifest
from edm2.runtime.progress import track

Row = tuple[int, int, bool, int, int]
ROW = np.dtype(
    [  # of an index: where a file lies
        ("tar", "i4"),
        ("ending", "i2"),
        ("begins", "?"),
        ("offset", "i8"),
        ("size", "i8"),
    ]
)


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Write one shard; it appears when complete.

    Args:
        samples: dicts of `__key__` and one bytes value per file ending.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        # mtime and owner are fixed: equal samples make equal shards
        with wds.TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            for sample in samples:
                writer.write(dict(sample))
        stream.flush()


class TarFiles:
    """The files in some tars, one after the other: an index in memory, the contents on disk.

    Files `first[i]` up to `first[i + 1]` are those of sample i: neighbors in a tar with the same
    key, which is the name up to the first dot after the folders, as WebDataset has it.

    The index takes 23 bytes a file and 8 a sample: 31 MB for a million images. Building it reads the
    header of every file in the tars, some 50 000 a second if the disk keeps up.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        wanted: Callable[[str], bool] = bool,
        way_out: str = WAY_OUT,
    ) -> None:
        """
        Args:
            wanted: which file endings (in lower case, without the dot) to read; all that are not
                empty by default.
            way_out: what to do about a tar that cannot be read.

        Raises:
            UserError: a missing, truncated or corrupt tar.
        """
        self.paths = list(paths)
        self.endings: list[str] = []
        self.rows = np.fromiter(self._rows(wanted, way_out), ROW)
        self.first = np.append(np.flatnonzero(self.rows["begins"]), len(self.rows))

    def _rows(self, wanted: Callable[[str], bool], way_out: str) -> Iterator[Row]:
        for tar, path in enumerate(track(self.paths, "index", len(self.paths), "shard")):
            previous = None
            for member in _members(path, way_out):
                key, ending = _key_and_ending(member.name)
                if wanted(ending):
                    if ending not in self.endings:
                        self.endings.append(ending)
                    yield (
                        tar,
                        self.endings.index(ending),
                        key != previous,
                        member.offset_data,
                        member.size,
                    )
                    previous = key

    def __len__(self) -> int:
        return len(self.rows)

    def tar(self, file: int) -> Path:
        return self.paths[self.rows["tar"][file]]

    def ending(self, file: int) -> str:
        return self.endings[self.rows["ending"][file]]

    def content(self, file: int) -> bytes:
        with self.tar(file).open("rb", buffering=0) as stream:
            stream.seek(self.rows["offset"][file])
            return stream.read(self.rows["size"][file])

    def name(self, file: int) -> str:
        """The name in the tar. Names are not kept in memory: this goes through the tar again."""
        with tarfile.open(self.tar(file), "r:") as tar:
            offset = self.rows["offset"][file]
            return next((m.name for m in tar if m.offset_data == offset), f"at byte {offset}")


class Samples:
    """The samples in some tars, in order. Item i is a dict from file ending to bytes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises UserError for a truncated or corrupt tar."""
        self.files = TarFiles(paths)
        self.paths = self.files.paths

    def __len__(self) -> int:
        return len(self.files.first) - 1

    def __getitem__(self, index: int) -> dict[str, bytes]:
        files = self.files
        members = range(files.first[index], files.first[index + 1])
        return {files.ending(file): files.content(file) for file in members}

    def __iter__(self) -> Iterator[dict[str, bytes]]:
        return (self[index] for index in range(len(self)))


class Shards(Samples):
    """The samples of one split of a folder of shards, in the order they were written."""

    def __init__(self, folder: Path, split: str) -> None:
        """Check the folder's files and read the tars' indices.

        Raises:
            UserError: no manifest, no such split, a missing, truncated or corrupt shard.
        """
        self.folder = folder
        self.facts = read_manifest(folder)
        names = sorted(name for name in self.facts["files"] if name.startswith(f"{split}-"))
        if not names:
            raise UserError(f"{folder}: no shards of split {split!r}. Run the stage that makes it.")
        super().__init__([folder / name for name in names])

    def by_shard(self) -> dict[str, range]:
        """The items of each shard, by the shard's file name."""
        shards = self.files.rows["tar"][self.files.first[:-1]]  # of each item, in rising order
        ends = np.searchsorted(shards, range(len(self.paths) + 1)).tolist()
        return {
            path.name: range(*items) for path, items in zip(self.paths, pairwise(ends), strict=True)
        }


def _members(path: Path, way_out: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, by its headers.

    tarfile takes a cut or a broken header for the end; here the mark of the end must stand there.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from (member for member in tar if member.isreg())
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no mark of its end: truncated or corrupt")
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a readable tar ({error}). {way_out}") from None


def _key_and_ending(name: str) -> tuple[str, str]:
    """cats/01.seg.PNG → cats/01 and seg.png; no ending for hidden files, as WebDataset has it."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower() if stem else ""
