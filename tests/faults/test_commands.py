"""Whatever happens to a command that writes, the same command then gives the same bits, and nothing else."""

import errno
import json

import pytest
import torch
from campaign import Tally, spread
from color_images import color_detectors, pixels, write_folder
from commands import Command
from interposer import refuse, run_out_of_memory
from small_tars import SMALL, write_tar
from tiny_network import write_network

from edm2.ema.snapshot import Snapshot, snapshot_metadata, write_tensors
from edm2.params.vae_options import VaeOptions
from edm2.pipeline.vae_alone import train_alone

pytestmark = [pytest.mark.faults, pytest.mark.slow]

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
KINDS = {
    "killed": None,
    "ENOSPC": (refuse(errno.ENOSPC), {"removals": False}),
    "ENOSPC from then on": (refuse(errno.ENOSPC), {"removals": False, "lasting": True}),
    "EIO": (refuse(errno.EIO), {"reads": True}),
    "EMFILE": (refuse(errno.EMFILE), {"removals": False, "reads": True}),
    "MemoryError": (run_out_of_memory, {"removals": False}),
}
PLACES = 3  # of the errors that are not tried everywhere


@pytest.fixture(scope="session")
def inputs(made_once):
    """What the commands read."""

    def make(folder):
        folder.mkdir()
        write_network(folder / "net")
        for name, seed in (("real", 1), ("fake", 0)):
            write_folder(folder / name, pixels(12, seed))
        torch.manual_seed(0)
        for nimg in (100, 200, 300, 400):
            for length in (0.05, 0.1):
                tensors = {"w": torch.randn(4, 3), "freqs": torch.ones(2)}
                snapshot = Snapshot.power(nimg, length)
                metadata = snapshot_metadata(snapshot, ["freqs"])
                path = folder / "store" / snapshot.file
                write_tensors(path, tensors, torch.float16, metadata, ["freqs"])
                run = folder / f"runs/{nimg}-{length}.pt"
                run.parent.mkdir(exist_ok=True)
                torch.save({"ema": tensors}, run)
        (folder / "store/codec").mkdir()
        for name in ("config.json", "codec/a.json"):
            (folder / "store" / name).write_text(json.dumps({"name": name}))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for number in range(3):
                write_tar(folder / f"{number}.tar", range(8 * number, 8 * number + 8))
            options = VaeOptions("{0..1}.tar", "2.tar", "f8d4", 32, SMALL, False, None)
            train_alone(options.params(1), folder / "vae")

    return made_once("commands", make)


@pytest.fixture(autouse=True)
def detectors(tmp_path, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    with color_detectors():
        yield


@pytest.fixture
def command(inputs, tmp_path, request):
    """The command, in a folder that has other results of the user, and older ones if it replaces them."""

    def make(name):
        start = tmp_path / "start"
        (start / "out").mkdir(parents=True)
        (start / "out/mine.txt").write_text("mine")
        for path in inputs.iterdir():
            (start / path.name).symlink_to(path)
        arguments = COMMANDS[name].split()
        if "--force" in arguments:
            folder = tmp_path / "older"
            folder.mkdir()
            older = Command(start, folder, [*arguments, "--dtype", "float32"])
            return Command(older.project, tmp_path, arguments)
        return Command(start, tmp_path, arguments)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_writes(command, record, name, kind):
    runs, tally = command(name), Tally()
    act, options = KINDS[kind] or (None, {})
    count = runs.changes(**{**options, "lasting": False})
    everywhere = kind in ("killed", "ENOSPC from then on")
    for number in range(1, count + 1) if everywhere else spread(count, PLACES):
        if act is None:
            runs.kill_at(number, tally)
        else:
            runs.fail_at(number, act, tally, **options)
    record(tally.row(f"edm2 {name}: {kind}"))
    assert (tally.failed, tally.left) == ([], [])
    assert tally.same == tally.tried
