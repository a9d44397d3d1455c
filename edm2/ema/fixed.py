"""Averages of a store of fixed lengths: copies of its snapshots, of no other length or time."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from edm2.ema.reconstruct import Reconstruction, Target
from edm2.ema.snapshot import Snapshot, tensors_to_store, write_tensors
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import load_tensors


def copy_files(
    store: SnapshotStore, targets: Mapping[Path, Target], dtype: torch.dtype
) -> list[Reconstruction]:
    """Copy averages of a store of fixed lengths to the paths; of the targets, only the times count.

    Raises:
        UserError: no snapshot was taken at one of the times.
    """
    for path, target in targets.items():
        tensors = load_tensors(store.path(_snapshot(store, target)))
        write_tensors(path, tensors, dtype, exact=store.buffers)
    return describe_copies(store, targets.values())


def copy_tensors(
    store: SnapshotStore, target: Target, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """One average as `copy_files` writes it."""
    path = store.path(_snapshot(store, target))
    return tensors_to_store(path, load_tensors(path), dtype, exact=store.buffers)


def describe_copies(store: SnapshotStore, targets: Iterable[Target]) -> list[Reconstruction]:
    """The properties of the averages as `copy_files` returns them; no value is read.

    Raises:
        UserError: as `copy_files`.
    """
    snapshots = [_snapshot(store, target) for target in targets]
    return [Reconstruction(s.sigma_rel, s.nimg, s.average, 0.0, 1.0, 1) for s in snapshots]


def _snapshot(store: SnapshotStore, target: Target) -> Snapshot:
    return store.at(store.end if target.nimg is None else target.nimg)
