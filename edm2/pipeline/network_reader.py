"""Reads networks: from their files, or makes those of a sweep that keeps none."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.pipeline.unstored import Tensors, unstored_networks
from edm2.runtime.distributed import broadcast_tensors, on_main_process
from edm2.runtime.files import sha256
from edm2.runtime.finite import listed, nonfinite_tensors
from edm2.runtime.manifest import expected_sha256, verified

# of networks that one pass over the snapshots makes ahead: at most 8 GiB, and a quarter of the memory
BYTES_AHEAD = min(2**33, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


class NetworkReader:
    """Reads one network after another.

    The main process makes networks that have no file and keeps those of its last pass over each folder of
    snapshots; the other ranks get them from there.
    """

    def __init__(self, bytes_ahead: int = 0) -> None:
        """
        Args:
            bytes_ahead: size of the networks that are made together with the one that is read: those
                after it in the sweep.
        """
        self.bytes_ahead = bytes_ahead
        self.queue: Sequence[str] = ()  # names of a search's networks that are read next
        self._made: dict[Path, dict[Path, Tensors]] = {}  # by folder of snapshots

    def read(self, path: Path) -> Tensors:
        """
        Args:
            path: a safetensors file, or the one that a network of a sweep would have.

        Raises:
            UserError: the file cannot be read or is damaged, or there is no such network.
            NotFiniteError: a tensor is not finite.
        """
        store = on_main_process(lambda: self._make(path))
        made = {} if store is None else self._made.get(store, {})
        tensors = _read_file(path) if store is None else broadcast_tensors(made.get(path, {}))
        names = nonfinite_tensors(tensors)
        if names:
            raise NotFiniteError(
                f"{path}: tensors of this network are not finite ({listed(names)}). Its training diverged, "
                "or the file is damaged: choose another network, or make it again."
            )
        return tensors

    def _make(self, path: Path) -> Path | None:
        """Make a network that has no file, unless it is in memory; returns the folder of its snapshots."""
        networks = None if path.is_file() else unstored_networks(path.parent)
        if networks is None:
            return None
        store = networks.store_of(path.name)
        if path not in self._made.get(store, {}):
            self._made.pop(store, None)  # its memory is used again
            made = networks.make(path.name, self.bytes_ahead, self.queue)
            self._made[store] = {path.parent / name: tensors for name, tensors in made.items()}
        return store


def network_identity(path: Path) -> str:
    """A checksum of a network: as in the manifest beside it, with which it is compared when it is read; of
    the file, if no manifest lists it; or of what it is made from.
    """
    networks = None if path.is_file() else unstored_networks(path.parent)
    if networks is not None:
        return networks.identity(path.name)
    return expected_sha256(path) or sha256(path)


def _read_file(path: Path) -> Tensors:
    try:
        tensors: dict[str, torch.Tensor] = load_file(verified(path))
    except (SafetensorError, OSError) as error:
        reason = "this is a folder" if path.is_dir() else error
        raise UserError(
            f"{path}: expected a network, a safetensors file like those in models/sweep/<training>/ "
            f"({reason})."
        ) from None
    return tensors
