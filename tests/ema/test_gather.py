"""From a training's snapshots to a store that can be trusted."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, write_snapshot
from edm2.ema.gather import gather
from edm2.params import UserError
from edm2.runtime.manifest import read_manifest


def training(folder, times, lengths=(0.05, 0.10)):
    """The folder that a training leaves: snapshots, and a network that is none."""
    for nimg in times:
        for length in lengths:
            tensors = {"w": torch.full((3,), length), "freqs": torch.ones(1)}
            write_snapshot(folder, Snapshot.power(nimg, length), tensors, ["freqs"])
    save_file({"w": torch.zeros(3)}, folder / "network.safetensors")
    return SnapshotStore(folder)


def test_a_gathered_store_holds_the_same_snapshots(tmp_path):
    source = training(tmp_path / "training", (100, 200))
    gather(source, tmp_path / "store", 200)
    store = SnapshotStore(tmp_path / "store")
    assert store.snapshots == source.snapshots
    assert store.buffers == ["freqs"]
    assert store.parameters == ["w"]
    assert not (tmp_path / "store" / "network.safetensors").exists()
    for snapshot in store.snapshots:
        found = load_file(store.path(snapshot))["w"]
        assert found.dtype == torch.float16
        expected = torch.full((3,), snapshot.sigma_rel)
        torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=0)


def test_a_gathered_store_has_an_index_with_checksums(tmp_path):
    source = training(tmp_path / "training", (100, 200))
    gather(source, tmp_path / "store", 200)
    manifest = read_manifest(tmp_path / "store")
    assert set(manifest["files"]) == {snapshot.file for snapshot in source.snapshots}
    indexed = [
        (entry["nimg"], entry["sigma_rel"], entry["file"]) for entry in manifest["snapshots"]
    ]
    assert indexed == [(s.nimg, s.sigma_rel, s.file) for s in source.snapshots]
    assert manifest["buffers"] == ["freqs"]


@pytest.mark.parametrize("end", [300, 150])
def test_a_missing_snapshot_at_the_end_is_refused(tmp_path, end):
    """Also where snapshots stand behind the end, left by a rollback."""
    source = training(tmp_path / "training", (100, 200))
    with pytest.raises(UserError, match=f"no snapshot at the end of training, {end} images"):
        gather(source, tmp_path / "store", end)
    assert not (tmp_path / "store").exists()


def test_an_end_that_lacks_one_of_the_lengths_is_refused(tmp_path):
    folder = tmp_path / "training"
    training(folder, (100, 200))
    (folder / Snapshot.power(200, 0.10).file).unlink()
    with pytest.raises(UserError, match=r"length 0\.1 has no .* 200 images"):
        gather(SnapshotStore(folder), tmp_path / "store", 200)


def test_a_spoiled_snapshot_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "training"
    training(folder, (100, 200))
    file = Snapshot.power(100, 0.05).file
    with safe_open(folder / file, framework="pt") as opened:
        metadata = opened.metadata()
    spoiled = {"w": torch.tensor([1.0, torch.nan, 1.0]), "freqs": torch.ones(1)}
    save_file(spoiled, folder / file, metadata)
    with pytest.raises(UserError, match=f"{file}: tensor w"):
        gather(SnapshotStore(folder), tmp_path / "store", 200)
    assert not (tmp_path / "store").exists()
