"""Indexes of snapshot stores: beside the snapshots, and in a folder that refers to a training."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, reconstruct, write_snapshot
from edm2.ema.index import index_training, write_index
from edm2.params import UserError
from edm2.runtime.manifest import read_manifest


def make_training(folder, times=(100, 200), lengths=(0.05, 0.10)):
    """The folder that a finished training leaves: snapshots, final weights and an index."""
    for nimg in times:
        for length in lengths:
            tensors = {"w": torch.full((3,), length), "freqs": torch.ones(1)}
            write_snapshot(folder, Snapshot.power(nimg, length), tensors, ["freqs"])
    save_file({"w": torch.zeros(3)}, folder / "network.safetensors")
    write_index(SnapshotStore(folder))
    return SnapshotStore(folder)


@pytest.fixture
def training(tmp_path):
    return make_training(tmp_path / "diffusion/G")


@pytest.fixture
def store(training, tmp_path):
    """A folder beside the training's that refers to it."""
    index_training(training, tmp_path / "ema/G", "../../diffusion/G", 200)
    return tmp_path / "ema/G"


def entries(manifest):
    return [(entry["nimg"], entry["sigma_rel"], entry["file"]) for entry in manifest["snapshots"]]


def test_a_training_is_described_with_checksums_of_its_files(training):
    manifest = read_manifest(training.folder)
    files = {snapshot.file for snapshot in training.snapshots}
    assert set(manifest["files"]) == files | {"network.safetensors"}
    assert entries(manifest) == [(s.nimg, s.sigma_rel, s.file) for s in training.snapshots]
    assert manifest["buffers"] == ["freqs"]


def test_an_index_of_a_training_holds_no_snapshot(store, training):
    assert [path.name for path in store.iterdir()] == ["manifest.json"]
    manifest = read_manifest(store)
    assert manifest["files"] == {}
    assert entries(manifest) == entries(read_manifest(training.folder))


def test_a_store_follows_its_index_to_the_training(store, training):
    opened = SnapshotStore(store)
    assert opened.folder == training.folder
    assert opened.snapshots == training.snapshots
    assert (opened.buffers, opened.parameters) == (["freqs"], ["w"])
    for snapshot in opened.snapshots:
        weights = load_file(opened.path(snapshot))["w"]
        assert weights.dtype == torch.float16
        expected = torch.full((3,), snapshot.sigma_rel)
        torch.testing.assert_close(weights.float(), expected, rtol=1e-3, atol=0)
    ((average, tensors),) = reconstruct(opened, [0.05])
    assert average.snapshots == 4
    torch.testing.assert_close(tensors["w"], torch.full((3,), 0.05), rtol=1e-3, atol=0)


def test_an_index_is_valid_wherever_both_folders_are_moved(store, training, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("diffusion", "ema"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    opened = SnapshotStore(tmp_path / "elsewhere/ema/G")
    assert opened.folder == tmp_path / "elsewhere/diffusion/G"
    assert opened.snapshots == training.snapshots


def test_an_index_without_its_training_is_refused(store, training):
    shutil.rmtree(training.folder)
    with pytest.raises(UserError, match=f"{training.folder}: no such folder.*snapshots"):
        SnapshotStore(store)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_training_that_lacks_the_indexed_end_is_refused(store, training, with_manifest):
    """Also one without a manifest, which cannot say so itself."""
    for length in (0.05, 0.10):
        (training.folder / Snapshot.power(200, length).file).unlink()
    if not with_manifest:
        (training.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"{training.folder}: .* 200 images"):
        SnapshotStore(store)


def test_a_truncated_snapshot_of_the_training_is_refused(store, training):
    path = training.path(training.snapshots[1])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=path.name):
        SnapshotStore(store)


@pytest.mark.parametrize("end", [300, 150])
def test_a_training_without_a_snapshot_at_its_end_is_refused(training, tmp_path, end):
    """Also if there are later snapshots."""
    with pytest.raises(UserError, match=rf"{training.folder}: .* {end} images"):
        index_training(training, tmp_path / "store", ".", end)
    assert not (tmp_path / "store").exists()


def test_a_training_whose_end_lacks_one_of_the_lengths_is_refused(tmp_path):
    training = make_training(tmp_path / "training")
    (training.folder / Snapshot.power(200, 0.10).file).unlink()
    (training.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"EMA length 0\.1 .* 200 images"):
        index_training(SnapshotStore(training.folder), tmp_path / "store", ".", 200)


def test_a_training_with_a_snapshot_of_another_network_is_refused(tmp_path):
    """Before anything is written."""
    training = make_training(tmp_path / "training")
    other = {"w": torch.ones(4), "freqs": torch.ones(1)}
    write_snapshot(training.folder, Snapshot.power(100, 0.05), other, ["freqs"])
    (training.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"tensor w: .*\[3\].*\[4\]"):
        index_training(training, tmp_path / "store", ".", 200)
    assert not (tmp_path / "store").exists()
