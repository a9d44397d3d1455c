"""Averages of other programs, imported into a snapshot store one at a time.

A snapshot keeps the names of the tensors, and in its metadata which file it was made from, and how. So an
import that was interrupted goes on, and a later one adds what is new.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from edm2.ema.checkpoint_files import for_each
from edm2.ema.checkpoints import read_checkpoint
from edm2.ema.index import write_index
from edm2.ema.snapshot import Snapshot, read_snapshot, snapshot_metadata, write_tensors
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import NAMES, Kind, TensorReader, first_difference
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.limits import parse_json
from edm2.runtime.manifest import MANIFEST
from edm2.runtime.progress import track
from edm2.runtime.temporaries import remove_abandoned

BATCHES = ".num_batches_tracked"  # PyTorch's normalization layers have it beside their statistics
STATISTICS = (".running_mean", ".running_var")

Read = Callable[[Path], tuple[Mapping[str, torch.Tensor], Sequence[str]]]


@dataclass(frozen=True)
class Selection:
    """Which tensors of a file are imported, and how.

    Attributes:
        key: see `read_checkpoint`.
        copied: patterns of names that are copied from the last snapshot, not averaged; statistics of
            PyTorch's normalization layers and tensors of integers are always.
        dropped: patterns of names that are left out.
    """

    key: str = ""
    copied: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def read(self, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
        """The selected tensors of a checkpoint, and the names of those that are copied.

        Raises:
            UserError: as `read_checkpoint`; or no tensor is left to average.
        """
        tensors = {
            name: _counter(path, name, tensor) if name.endswith(BATCHES) else tensor
            for name, tensor in read_checkpoint(path, self.key).items()
            if not _matches(name, self.dropped)
        }
        copied = [name for name in tensors if self._is_copied(name, tensors)]
        if len(copied) == len(tensors):
            raise UserError(
                f"{path}: nothing to average: {len(tensors)} tensors, expected some that are neither "
                "dropped nor copied."
            )
        return tensors, copied

    def _is_copied(self, name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
        module, _, last = name.rpartition(".")
        statistics = f".{last}" in STATISTICS and module + BATCHES in tensors
        return statistics or not tensors[name].is_floating_point() or _matches(name, self.copied)


def import_snapshots(
    sources: Mapping[Path, Snapshot],
    folder: Path,
    read: Read,
    settings: str,
    *,
    dtype: torch.dtype | None = None,
    force: bool = False,
    compare_first: bool = True,
) -> SnapshotStore:
    """Write the average in each file into a store: a new one, or one that was imported before.

    Memory holds one average. Averages of time 0 are left out.

    Args:
        read: returns the tensors of a file, and the names of those that are not averaged.
        settings: what the tensors depend on beside the file, to be compared when an import goes on.
        dtype: of the stored averages; None: as in the files. What is not averaged keeps its own.
        force: replace snapshots that were made from another file, or otherwise.
        compare_first: read the names and shapes of all files before anything is written, where that
            reads no values.

    Raises:
        UserError: two files are the same average; the store was not made by an import, or has such a
            snapshot from another file; the files are of different networks, by file and tensor; a value
            is not finite; a file cannot be read, or changes while it is read.
    """
    sources = _without_start(sources)
    origins = {path: _provenance(path, f"{settings}, {dtype}") for path in sources}
    stored = _provenances(folder)
    todo = {path: s for path, s in sources.items() if stored.get(s.file) != origins[path]}
    if not force:
        _refuse_to_replace(folder, stored, todo)
    kept = stored.keys() - {snapshot.file for snapshot in todo.values()}
    expected = _Expected(folder, kept, dtype)
    if compare_first:
        for_each(todo, lambda path: expected.check(path, *read(path)))
    remove_abandoned(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # until all is there, a folder without one
    for path, snapshot in track(list(todo.items()), "import averages", len(todo), "file"):
        tensors, copied = read(path)
        expected.check(path, tensors, copied)
        metadata = snapshot_metadata(snapshot, copied, source=origins[path])
        exact = copied if dtype else list(tensors)
        with _naming(path):
            write_tensors(folder / snapshot.file, tensors, dtype or torch.float32, metadata, exact)
        _require_unchanged(path, origins[path], folder / snapshot.file)
        del tensors  # before the next ones are read
    store = SnapshotStore(folder)
    write_index(store)
    return store


def _require_unchanged(path: Path, origin: Mapping[str, Any], made: Path) -> None:
    """
    Args:
        origin: what the file was before it was read.
        made: the snapshot that was made of it.

    Raises:
        UserError: it was changed meanwhile, as by a training that saves it; the snapshot is removed.
    """
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) != (origin["bytes"], origin["mtime_ns"]):
        made.unlink()
        raise UserError(
            f"{path}: was changed while it was read, so no snapshot is made of it. Run the same command "
            "again when the file is complete."
        )


def _refuse_to_replace(
    folder: Path, stored: Mapping[str, Any], todo: Mapping[Path, Snapshot]
) -> None:
    """
    Raises:
        UserError: a snapshot is in the store, made from another file or otherwise.
    """
    for path, snapshot in todo.items():
        if snapshot.file in stored:
            raise UserError(
                f"{folder / snapshot.file}: imported from another file, or with other options, than "
                f"{path}. Choose another --out, or use --force."
            )


class _Expected:
    """The averaged tensors that all files must have: those of the first one."""

    def __init__(self, folder: Path, stored: Iterable[str], dtype: torch.dtype | None) -> None:
        """
        Args:
            stored: names of the snapshots that are in the folder already, and stay.
            dtype: of the stored averages; None: as in the files.
        """
        self.dtype = dtype
        self.source, self.kinds, self.copied = Path(), dict[str, Kind](), set[str]()
        for name in sorted(stored)[:1]:
            self.source = folder / name
            self.copied = set(read_snapshot(self.source)[1])
            with closing(TensorReader(self.source)) as reader:
                self.kinds = reader.kinds

    def check(self, path: Path, tensors: Mapping[str, torch.Tensor], copied: Sequence[str]) -> None:
        """
        Raises:
            UserError: a tensor differs in name, dtype or shape, or cannot be stored.
        """
        kinds = {
            name: (self._dtype(path, name, tensor, name in copied), tuple(tensor.shape))
            for name, tensor in tensors.items()
        }
        if not self.kinds:
            self.source, self.kinds, self.copied = path, kinds, set(copied)
        difference = first_difference(kinds, self.kinds, self.copied & set(copied))
        if difference:
            raise UserError(
                f"{path}: {difference} as in {self.source}. All snapshots of a store are of one network: "
                "choose the files of one, or leave tensors out (--drop)."
            )

    def _dtype(self, path: Path, name: str, tensor: torch.Tensor, copied: bool) -> torch.dtype:
        """The dtype in which a tensor is stored."""
        averaged = tensor.is_floating_point() and not copied
        dtype = self.dtype if self.dtype and averaged else tensor.dtype
        if dtype not in NAMES or tensor.layout != torch.strided:
            raise UserError(
                f"{path}: tensor {name}: {dtype}, {tensor.layout}: expected one of "
                f"{', '.join(map(str, NAMES))}, and torch.strided. Leave it out (--drop), or choose a "
                "--dtype."
            )
        return dtype


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors name the file that is imported, and what to do about it."""
    try:
        yield
    except NotFiniteError as error:
        raise UserError(
            f"{path}: tensor {error.tensor}: not all values are finite as stored. Choose checkpoints from "
            "before the training diverged; store float32 (--dtype) if they are too large for 16 bits; or "
            "leave the tensor out (--drop)."
        ) from None


def _without_start(sources: Mapping[Path, Snapshot]) -> dict[Path, Snapshot]:
    """Files in the order of time, without those of time 0, which are named.

    Raises:
        UserError: there are no others, or two of them are the same average.
    """
    by_file: dict[str, Path] = {}
    for path, snapshot in sources.items():
        other = by_file.setdefault(snapshot.file, path)
        if other != path:
            raise UserError(
                f"{path}: the same average as {other}: time {snapshot.nimg}, EMA length "
                f"{snapshot.sigma_rel:g}. Import one of them."
            )
        if snapshot.nimg == 0:
            print(
                f"note: {path}: skipped: at time 0 there is no training to average.",
                file=sys.stderr,
            )
    trained = {path: snapshot for path, snapshot in sources.items() if snapshot.nimg > 0}
    if not trained:
        raise UserError("expected averages after time 0, found none. Import those of later times.")
    return dict(sorted(trained.items(), key=lambda item: item[1]))


def _provenances(folder: Path) -> dict[str, Any]:
    """Which file each snapshot of a store was imported from.

    Raises:
        UserError: a snapshot was made by a training.
    """
    provenances = {}
    for path in folder.glob("ema-*.safetensors"):
        with closing(TensorReader(path)) as reader:
            text = reader.metadata.get("snapshot", "{}")
        description: Any = {}
        with suppress(ValueError):  # a damaged text is not of an import
            description = parse_json(text)
        if "source" not in description:
            raise UserError(
                f"{path}: not made by an import, but by a training. Choose another --out."
            )
        provenances[path.name] = description["source"]
    return provenances


def _provenance(path: Path, settings: str) -> dict[str, Any]:
    """What is compared to know a file again, without reading it."""
    stat = path.stat()
    return {
        "file": path.name,
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "settings": settings,
    }


def _counter(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A count of batches as whole numbers; programs that store all tensors in 16 bits round it."""
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise UserError(
            f"{path}: tensor {name}: too large for {tensor.dtype}, in which the file has it. Leave the "
            f"counts out (--drop '*{BATCHES}'): `load_state_dict` does without them."
        )
    return tensor.long() if tensor.is_floating_point() else tensor


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
