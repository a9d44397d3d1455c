"""Networks of a sweep that keeps no files (sweep.materialize: false): made where they are used.

The sweep's manifest says what each is made from. So its users need no params of the sweep, and as the
manifest has the checksums of the snapshots' manifests, it changes with them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edm2.ema.fixed import copy_tensors
from edm2.ema.profile import MAX_SIGMA_REL
from edm2.ema.reconstruct import Target, reconstruct_tensors
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import TensorReader
from edm2.params import UserError
from edm2.params.ema import Sweep
from edm2.pipeline.networks import FILE, GUIDE, network_file
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
        stores: the opened folders: of the networks, and of guides of another training.
    """
    folders = sorted({folder for path, store in stores.items() for folder in (path, store.folder)})
    manifests = [folder / MANIFEST for folder in folders if (folder / MANIFEST).exists()]
    return {
        "stores": {
            kind: folder.as_posix() for kind, folder in zip(("", GUIDE), stores, strict=False)
        },
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

    def make(self, name: str, max_bytes: int, queue: Sequence[str] = ()) -> dict[str, Tensors]:
        """A network, and with it, in one pass over its snapshots, those after it that fit into `max_bytes`.

        Args:
            queue: networks of a search, in the order of their use; those of a grid have that of the sweep.

        Raises:
            UserError: the snapshots are missing, damaged, or not those of the sweep; a network is not finite.
        """
        folder = self.store_of(name)
        self._check_snapshots()
        store = SnapshotStore(folder)
        later = list(queue if name in queue else self.manifest["averages"]) or [name]
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
        averages, search = self.manifest["averages"], self.manifest["search"]
        if name in averages:
            return averages[name]
        if search is None:
            listed = f"its manifest lists {len(averages)} networks, like {next(iter(averages))}"
        elif average := self._searched(name, search):
            return average
        else:
            listed = (
                f"its search has EMA lengths from {search['low']} to {search['high']}, with names like "
                f"{network_file(1, search['low'])}"
            )
        raise UserError(
            f"{self.folder / name}: no such network. {self.folder} keeps no files (sweep.materialize: "
            f"false); {listed}."
        )

    def _searched(self, name: str, search: Mapping[str, float]) -> Any:
        """What a network of a search is made from, which its name says; None if it has no such network."""
        match = FILE.fullmatch(name)
        store = self.manifest["stores"].get(match[1] or "") if match else None
        if match is None or store is None or not 0 < float(match[3]) < MAX_SIGMA_REL:
            return None
        return {"store": store, "target": asdict(Target(float(match[3]), int(match[2])))}

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
