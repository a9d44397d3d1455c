"""WebDataset shards: written by `webdataset`, read at random through an index of each tar.

A shard is an uncompressed tar, so every sample has a fixed place in it. Reading by index instead
of in sequence gives exact epochs, any number of ranks and workers on any number of shards, and
training that resumes in the middle of an epoch.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import webdataset as wds

from edm2.params import UserError
from edm2.runtime.files import replacing
from edm2.runtime.manifest import WAY_OUT, read_manifest

# file ending → (offset, size) in the tar
Place = dict[str, tuple[int, int]]


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


class Shards:
    """The samples of one split of a folder of shards, in the order they were written.

    Item i is a dict from file ending to bytes.
    """

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
        self.paths = [folder / name for name in names]
        # the shard of each sample, and its place there
        self.places = [(shard, place) for shard, path in enumerate(self.paths)
                       for place in _index(path)]  # fmt: skip

    def __len__(self) -> int:
        return len(self.places)

    def by_shard(self) -> dict[str, list[int]]:
        """The items of each shard, by the shard's file name."""
        items: dict[str, list[int]] = {path.name: [] for path in self.paths}
        for item, (shard, _) in enumerate(self.places):
            items[self.paths[shard].name].append(item)
        return items

    def __getitem__(self, index: int) -> dict[str, bytes]:
        shard, place = self.places[index]
        with self.paths[shard].open("rb", buffering=0) as file:
            return _read(file, place)


def read_shard(path: Path) -> Iterator[dict[str, bytes]]:
    """The samples of one shard, in order."""
    with path.open("rb") as file:
        for place in _index(path):
            yield _read(file, place)


def _read(file: BinaryIO, place: Place) -> dict[str, bytes]:
    sample = {}
    for ending, (offset, size) in place.items():
        file.seek(offset)
        sample[ending] = file.read(size)
    return sample


def _index(path: Path) -> list[Place]:
    """Where the files of each sample lie in a tar, by sample and file ending.

    tarfile takes a cut or a broken header for the end; here the mark of the end must stand there.
    """
    samples: dict[str, Place] = {}
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, _, ending = member.name.partition(".")
                    samples.setdefault(key, {})[ending] = (member.offset_data, member.size)
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no mark of its end: truncated or corrupt")
        except tarfile.TarError as error:
            raise UserError(f"{path}: not a readable tar ({error}). {WAY_OUT}") from None
    return list(samples.values())
