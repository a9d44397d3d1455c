"""Commands that write, with faults: `Campaign` for `edm2` in a folder with what it reads."""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from campaign import Campaign, Ended, Tally
from color_images import pixels, write_folder
from small_tars import SMALL, write_tar
from tiny_network import write_network

from edm2.ema.snapshot import Snapshot, write_snapshot
from edm2.params.vae_options import VaeOptions
from edm2.pipeline.vae_alone import train_alone

# what commands import when they need it: here once, before the forks
IMPORTED = ("pandas", "scipy.linalg", "matplotlib.pyplot", "webdataset", *(
    f"edm2.{name}" for name in (
        "cli.main", "ema.importing", "ema.reconstruct", "pipeline.export_network",
        "pipeline.measurement", "pipeline.portable_networks", "pipeline.samples",
        "pipeline.published_store", "pipeline.vae_average", "pipeline.vae_export",
    )
))  # fmt: skip

COMMANDS = {
    "sample": "sample net --seeds 0-3 --steps 2 --device cpu --out out/samples",
    "sample to shards": "sample net --seeds 0-3 --steps 2 --format shards --out out/samples",
    "measure": "measure fake --reference real --detector colors --allow-singular --out out/fd.json",
    "measure reference": "measure reference real --detector colors,squares --out out/real.npz",
    "export network": "export network out/net --network net/model.safetensors",
    "export vae": "export vae out/vae --from vae",
    "vae average": "vae average vae/models/vae_snapshots out/average --ema-length 0.1",
    "ema reconstruct": "ema reconstruct store --lengths 0.06,0.09 --out out/averages",
    "ema reconstruct --force": "ema reconstruct store --lengths 0.06,0.09 --out out/averages --force",
    "ema import": "ema import runs --key ema --pattern {step}-{length}.pt --out out/store",
}


def write_inputs(folder: Path) -> None:
    """What the commands read, but for a VAE."""
    folder.mkdir()
    write_network(folder / "net")
    for name, seed in (("real", 1), ("fake", 0)):
        write_folder(folder / name, pixels(12, seed))
    torch.manual_seed(0)
    for nimg in (100, 200, 300, 400):
        for length in (0.05, 0.1):
            tensors = {"w": torch.randn(4, 3), "freqs": torch.ones(2)}
            write_snapshot(folder / "store", Snapshot.power(nimg, length), tensors, ["freqs"])
            run = folder / f"runs/{nimg}-{length}.pt"
            run.parent.mkdir(exist_ok=True)
            torch.save({"ema": tensors}, run)
    (folder / "store/codec").mkdir()
    for name in ("config.json", "codec/a.json"):
        (folder / "store" / name).write_text(json.dumps({"name": name}))


def train_vae(folder: Path) -> None:
    """The folder of a tiny `edm2 vae train`."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(3):
            write_tar(folder / f"{number}.tar", range(8 * number, 8 * number + 8))
        options = VaeOptions("{0..1}.tar", "2.tar", "f8d4", 32, SMALL, False, None)
        train_alone(options.params(1), folder / "vae")


class Command(Campaign):
    """One command, repeated in a copy of the same folder."""

    tops, states = ("out",), ()

    def __init__(self, inputs: Path, folder: Path, arguments: Sequence[str]) -> None:
        """
        Args:
            inputs: folder with what the command reads, and maybe with what it has written before.
            folder: an empty one.
            arguments: of `edm2`; it writes into `out`, or below.
        """
        for name in IMPORTED:
            importlib.import_module(name)
        self.finished, self.project, self.folder = inputs, folder / "project", folder
        self.stage, self.arguments = "edm2", arguments
        self.restore()
        self.before = self.contents(self.project)
        ended = self.run_again()
        assert ended.status == 0, ended.text
        self.expected = self.contents(self.project)

    def restore(self) -> None:
        shutil.rmtree(self.project, ignore_errors=True)
        shutil.copytree(self.finished, self.project, symlinks=True)

    def _main(self) -> None:
        from edm2.cli import main

        try:
            main(self.arguments)
        except SystemExit as end:
            if end.code:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code))

    def _is_done(self, again: Ended) -> bool:
        """A command that was killed when all was written may say that it exists."""
        return again.status == 0 or (again.status == 2 and "exists" in again.text)

    def _finish(self, name: str, tally: Tally) -> None:
        if changed := self.changed():
            tally.failed.append(f"{name}: {changed} are not as before, and not as in the end")
        super()._finish(name, tally)

    def changed(self) -> list[str]:
        """Files that are neither as they were before the command, nor as it writes them."""
        found = self.contents(self.project)
        return [
            name
            for name in self.before.keys() | found.keys()
            if found.get(name) not in (self.before.get(name), self.expected.get(name))
            and ".partial" not in name
        ]
