"""From a training's snapshots to a store that can be trusted."""

import pytest
import torch
from safetensors.torch import save_file

from edm2.ema import SnapshotStore
from edm2.ema.gather import gather
from edm2.ema.store import Snapshot, describe, snapshots_in, write_snapshots
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest


def training(folder, times, lengths=(0.05, 0.10)):
    """The folder that a training leaves: snapshots, and a network that is none."""
    for nimg in times:
        snapshots = {Snapshot.of(nimg, s): {"w": torch.full((3,), s)} for s in lengths}
        write_snapshots(folder, snapshots)
    save_file({"w": torch.zeros(3)}, folder / "network.safetensors")
    return opened(folder)


def opened(folder):
    write_manifest(folder, snapshots=describe(snapshots_in(folder)), buffers=["freqs"])
    return SnapshotStore(folder)


def test_a_gathered_store_holds_the_same_snapshots(tmp_path):
    source = training(tmp_path / "training", (100, 200))
    gather(source, tmp_path / "store", 200)
    store = SnapshotStore(tmp_path / "store")
    assert store.snapshots == source.snapshots
    assert store.facts["buffers"] == ["freqs"]
    assert store.facts["dtype"] == "float16"
    assert not (tmp_path / "store" / "network.safetensors").exists()
    for snapshot in store.snapshots:
        with store.open(snapshot) as file:
            torch.testing.assert_close(file.get_tensor("w").float(),
                                       torch.full((3,), snapshot.sigma_rel), rtol=1e-3, atol=0)  # fmt: skip


@pytest.mark.parametrize("end", [300, 150])
def test_a_missing_snapshot_at_the_end_is_refused(tmp_path, end):
    """Also where snapshots stand behind the end, left by a rollback."""
    source = training(tmp_path / "training", (100, 200))
    with pytest.raises(UserError, match=f"stands at 200 images, .* {end}"):
        gather(source, tmp_path / "store", end)
    assert not (tmp_path / "store").exists()


def test_an_end_that_lacks_one_of_the_lengths_is_refused(tmp_path):
    folder = tmp_path / "training"
    training(folder, (100, 200))
    (folder / Snapshot.of(200, 0.10).file).unlink()
    with pytest.raises(UserError, match="200"):
        gather(opened(folder), tmp_path / "store", 200)


def test_a_spoiled_snapshot_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "training"
    training(folder, (100, 200))
    file = Snapshot.of(100, 0.05).file
    save_file({"w": torch.tensor([1.0, torch.nan, 1.0])}, folder / file)
    with pytest.raises(UserError, match=f"{file}: tensor w"):
        gather(opened(folder), tmp_path / "store", 200)
    assert not (tmp_path / "store").exists()
