"""Networks of a sweep that keeps no files (sweep.materialize: false): made where they are used.

The sweep's manifest says what each is made from. So its users need no params of the sweep, and as the
manifest has the checksums of the snapshots' manifests, it changes with them.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edm2.ema.fixed import copy_tensors
from edm2.ema.reconstruct import Target, reconstruct_tensors
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import TensorReader
from edm2.params import UserError
from edm2.params.ema import Sweep
from edm2.runtime.files import require_sha256, sha256
from edm2.runtime.manifest import MANIFEST, load_manifest

DTYPES = {"float16": torch.float16, "float32": torch.float32}
Tensors = dict[str, torch.Tensor]


def manifest_entries(
    averages: Mapping[str, tuple[Path, Target]], stores: Mapping[Path, SnapshotStore], sweep: Sweep
) -> dict[str, Any]:
    """What the manifest of a sweep without files says.

    Args:
        averages: by name of the network, in the order of use: folder of its snapshots, and what to make.
        stores: the opened folders.
    """
    folders = sorted({folder for path, store in stores.items() for folder in (path, store.folder)})
    manifests = [folder / MANIFEST for folder in folders if (folder / MANIFEST).exists()]
    return {
        "averages": {
            name: {"store": folder.as_posix(), "target": asdict(target)}
            for name, (folder, target) in averages.items()
        },
        "snapshots": {path.as_posix(): sha256(path) for path in manifests},
        "dtype": sweep.dtype,
        "normalize_weights": sweep.normalize_weights,
    }


def unstored_networks(folder: Path) -> "UnstoredNetworks | None":
    """The networks of a sweep's folder; None if this is not one, or has files."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = load_manifest(folder)
    return UnstoredNetworks(folder, manifest) if "averages" in manifest else None


class UnstoredNetworks:
    """The networks of a sweep without files, by the names that their files would have."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dtype = DTYPES[manifest["dtype"]]

    def store_of(self, name: str) -> Path:
        """The folder of the snapshots that a network is made from.

        Raises:
            UserError: no network has this name.
        """
        return Path(self._average(name)["store"])

    def identity(self, name: str) -> str:
        """A checksum of what determines a network."""
        manifest = self.manifest
        parts = (self._average(name), *(manifest[key] for key in ("snapshots", "dtype")))
        text = json.dumps([*parts, manifest["normalize_weights"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def make(self, name: str, max_bytes: int) -> dict[str, Tensors]:
        """A network, and with it, in one pass over its snapshots, those after it that fit into `max_bytes`.

        Raises:
            UserError: the snapshots are missing, damaged, or not those of the sweep; a network is not finite.
        """
        folder = self.store_of(name)
        self._check_snapshots()
        store = SnapshotStore(folder)
        later = list(self.manifest["averages"])
        later = [n for n in later[later.index(name) :] if self.store_of(n) == folder]
        names = later[: max(1, max_bytes // self._bytes(store))]
        targets = [Target(**self._average(n)["target"]) for n in names]
        if store.has_fixed_lengths:
            return {
                n: copy_tensors(store, t, self.dtype) for n, t in zip(names, targets, strict=True)
            }
        averages = reconstruct_tensors(
            store, targets, self.dtype, self.manifest["normalize_weights"]
        )
        return {n: tensors for n, (_, tensors) in zip(names, averages, strict=True)}

    def _average(self, name: str) -> Any:
        averages = self.manifest["averages"]
        if name not in averages:
            raise UserError(
                f"{self.folder / name}: no such network. {self.folder} keeps no files (sweep.materialize: "
                f"false); its manifest lists {len(averages)} networks, like {next(iter(averages))}."
            )
        return averages[name]

    def _check_snapshots(self) -> None:
        for name, expected in self.manifest["snapshots"].items():
            path, remedy = Path(name), f"Run `dvc repro sweep_ema@{self.folder.name}`."
            if not path.exists():
                raise UserError(
                    f"{path}: missing, but the networks of {self.folder} are made from these snapshots "
                    "(sweep.materialize: false). Get them with `dvc checkout` or `dvc pull`."
                )
            require_sha256(path, sha256(path), expected, f"as in {self.folder / MANIFEST}", remedy)

    def _bytes(self, store: SnapshotStore) -> int:
        """Size of one network in memory."""
        with closing(TensorReader(store.path(store.snapshots[-1]))) as reader:
            return sum(entry.count for entry in reader.entries.values()) * self.dtype.itemsize
