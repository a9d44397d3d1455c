"""How often snapshots are read in full from the training to the networks of the sweep."""

import hashlib
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
from tiny import TINY, run_stage

from edm2.params import UserError
from edm2.runtime.manifest import read_manifest

TIMES, LENGTHS = range(256, 1025, 256), (0.05, 0.1)
FILES = {f"ema-{length}-{nimg:012d}.safetensors" for nimg in TIMES for length in LENGTHS}


class Reads:
    """Counts how often the values of each snapshot are read in full since it was created.

    By every way in which the project reads files: hashes, reads at a position, and copies. The
    safetensors package, which maps files into memory, may not open a snapshot.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes: Counter[str] = Counter()
        digest, preadv, copy = hashlib.file_digest, os.preadv, shutil.copyfile

        def counting_digest(file, *args):
            self._add(Path(file.name))
            return digest(file, *args)

        def counting_preadv(descriptor, buffers, position):
            count = preadv(descriptor, buffers, position)
            self._add(Path(os.readlink(f"/proc/self/fd/{descriptor}")), count)
            return count

        def counting_copy(source, target, **options):
            self._add(Path(source))
            return copy(source, target, **options)

        patch.setattr(hashlib, "file_digest", counting_digest)
        patch.setattr(os, "preadv", counting_preadv)
        patch.setattr(shutil, "copyfile", counting_copy)
        for name, module in list(sys.modules.items()):
            for function in (safetensors.safe_open, safetensors.torch.load_file):
                if name.startswith("edm2.") and vars(module).get(function.__name__) is function:
                    patch.setattr(module, function.__name__, self._refusing(function))

    def _refusing(self, function):
        def refusing(path, *args, **options):
            assert Path(path).name not in FILES
            return function(path, *args, **options)

        return refusing

    def _add(self, path: Path, count: int | None = None) -> None:
        assert (
            path.suffix != ".tar"
        )  # shards are large: they are read by sample, or by `edm2 verify`
        if path.name in FILES:
            self.bytes[path.name] += value_bytes(path) if count is None else count

    def take(self) -> dict[str, float]:
        """Full reads by file since the last call."""
        folder = Path("models/diffusion/G-0")
        reads = {name: self.bytes[name] / value_bytes(folder / name) for name in FILES}
        self.bytes.clear()
        return reads


def value_bytes(path: Path) -> int:
    """Size of a safetensors file without its header."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def test_each_snapshot_is_hashed_once_and_reconstructed_from_once(project, monkeypatch):
    """The stage between training and sweep reads none. (DVC hashes each file once more.)"""
    folder = project()
    for out in ("models/diffusion/G-0", "models/ema/G-0", "models/sweep/G-0"):
        shutil.rmtree(folder / out)
    reads = Reads(monkeypatch)
    run_stage("train_diffusion", "G")
    assert reads.take() == dict.fromkeys(FILES, 1)
    run_stage("snapshot_emas", "G")
    assert reads.take() == dict.fromkeys(FILES, 0)
    assert [path.name for path in (folder / "models/ema/G-0").iterdir()] == ["manifest.json"]
    run_stage("sweep_ema", "G")
    assert all(0.99 < count <= 1 for count in reads.take().values())  # buffers only of the last
    networks = read_manifest(folder / "models/sweep/G-0")["networks"]
    assert [network["ema_length"] for network in networks] == TINY["sweep.ema_lengths"]
    for stage in ("snapshot_emas", "sweep_ema"):
        run_stage(stage, "G")  # complete: only published again
    assert reads.take() == dict.fromkeys(FILES, 0)
    run_stage("train_diffusion", "G")  # compared with their checksums before they are published
    assert reads.take() == dict.fromkeys(FILES, 1)


def test_a_training_without_a_snapshot_at_its_end_is_refused(project):
    folder = project(diffusion__duration_nimg=1280)
    with pytest.raises(UserError, match=r"models/diffusion/G-0: .* 1280 images"):
        run_stage("snapshot_emas", "G")
    assert (folder / "models/ema/G-0/manifest.json").exists()
