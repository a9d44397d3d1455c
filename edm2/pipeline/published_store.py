"""A snapshot store of published networks outside of a project, with a description for sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edm2.diffusion.pretrained import CONFIG
from edm2.ema.importing import import_snapshots
from edm2.ema.store import SnapshotStore
from edm2.params import UserError
from edm2.pipeline.portable import write_description
from edm2.pipeline.published import (
    NAME,
    buffer_names,
    identify_published,
    read_raw_network,
)
from edm2.pipeline.published_network import read_published_network
from edm2.runtime.manifest import add_to_manifest


def import_networks(paths: Sequence[Path], folder: Path, *, force: bool = False) -> SnapshotStore:
    """Write the raw networks of pickles into a store, and what sampling needs beside it into config.json.

    Time and EMA length are read from the names. What was imported before is not read again.

    Args:
        force: replace snapshots that were made from other files.

    Raises:
        UserError: the names are of several networks, or one has no time or length; a file cannot be
            read safely, or holds another network than the others.
    """
    sources = {path: identify_published(path) for path in paths}
    _check_one_network(paths)
    store = import_snapshots(sources, folder, _read, "published", force=force, compare_first=False)
    if force or not (folder / CONFIG).exists():
        latest = max(sources, key=lambda path: sources[path])
        network = read_published_network(latest)
        network.denoiser.head = None  # averages are of the raw network
        of_one = ("network", "average")  # of the latest alone
        provenance = {key: v for key, v in network.provenance.items() if key not in of_one}
        provenance["file"] = f"averages of {_name(latest)}"
        write_description(folder, replace(network, provenance=provenance))
        add_to_manifest(folder, [folder / CONFIG])
    return store


def _read(path: Path) -> tuple[Mapping[str, torch.Tensor], list[str]]:
    denoiser, tensors = read_raw_network(path)
    return tensors, buffer_names(denoiser)


def _check_one_network(paths: Sequence[Path]) -> None:
    """Compare what the names begin with, before anything is read."""
    names: dict[str, list[Path]] = {}
    for path in paths:
        names.setdefault(_name(path), []).append(path)
    if len(names) > 1:
        networks = ", ".join(f"{name} ({len(files)})" for name, files in sorted(names.items()))
        example = sorted(names)[0]
        raise UserError(
            f"{paths[0].parent}: {len(names)} networks: {networks}: expected one. Choose its files, "
            f"like '{paths[0].parent / example}-*.pkl' in quotes."
        )


def _name(path: Path) -> str:
    """The network of a pickle, by its name."""
    match = NAME.fullmatch(path.name)
    return match[1] if match else path.stem
