"""Stores that are damaged or incomplete: which can be used, and what is reported."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, reconstruct, write_snapshot
from edm2.ema.index import write_index
from edm2.ema.profile import Power
from edm2.ema.solve import normalized, solve_profiles
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest
from edm2.runtime.verification import damaged_files

TIMES, LENGTHS = range(100, 1001, 100), (0.05, 0.10)


def write(folder, nimg, length):
    tensors = {"w": torch.full((3,), float(nimg)), "freqs": torch.ones(2)}
    write_snapshot(folder, Snapshot.power(nimg, length), tensors, ["freqs"])


@pytest.fixture
def running(tmp_path):
    """The folder of a training that is still running: no manifest."""
    for nimg in TIMES:
        for length in LENGTHS:
            write(tmp_path, nimg, length)
    return tmp_path


@pytest.fixture
def indexed(running):
    write_index(SnapshotStore(running))
    return running


def test_a_running_training_can_be_read(running, capsys):
    store = SnapshotStore(running)
    assert (store.end, store.buffers, store.parameters) == (1000, ["freqs"], ["w"])
    assert store.snapshots == sorted(Snapshot.power(t, s) for t in TIMES for s in LENGTHS)
    write(running, 1100, 0.05)
    later = SnapshotStore(running)
    assert (later.end, len(later.snapshots)) == (1100, 21)
    ((average, _),) = reconstruct(later, [0.08])
    assert average.nimg == 1100
    assert capsys.readouterr().err == ""


def test_unfinished_and_other_files_are_not_snapshots(running):
    (running / ".ema-0.05-000000001100.safetensors.1.partial").write_bytes(b"half")
    (running / "network.safetensors").write_bytes(b"another file")
    assert SnapshotStore(running).end == 1000


def test_a_tensor_file_without_snapshot_metadata_is_refused_with_the_fix(running):
    save_file({"w": torch.ones(3)}, running / "ema-0.05-000000001100.safetensors")
    with pytest.raises(UserError, match=r"ema-0\.05-000000001100.*`write_snapshot`"):
        SnapshotStore(running)


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"nimg": 5}', "5", None])
def test_metadata_that_describe_no_snapshot_are_refused_by_file(running, text):
    metadata = {"snapshot": text} if text else {"format": "pt"}
    save_file({"w": torch.ones(3)}, running / "ema-x-000000001100.safetensors", metadata)
    with pytest.raises(UserError, match=r"ema-x-000000001100\.safetensors"):
        SnapshotStore(running)


def test_metadata_without_names_of_buffers_are_refused_by_file(running):
    metadata = {"nimg": 1100, "sigma_rel": 0.05, "halflife_nimg": None, "rampup": None}
    save_file(
        {"w": torch.ones(3)},
        running / "ema-x-000000001100.safetensors",
        {"snapshot": json.dumps(metadata)},
    )
    with pytest.raises(UserError, match=r"ema-x-000000001100\.safetensors"):
        SnapshotStore(running)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_folder_without_snapshots_is_refused(tmp_path, with_manifest):
    if with_manifest:
        write_manifest(tmp_path, snapshots=[], buffers=[])
    with pytest.raises(UserError, match=f"{tmp_path}: holds no snapshots"):
        SnapshotStore(tmp_path)


def test_a_complete_store_is_opened_without_a_warning(indexed, capsys):
    assert len(SnapshotStore(indexed).snapshots) == 20
    assert capsys.readouterr().err == ""


def test_missing_snapshots_before_the_end_are_reported_with_the_resulting_errors(indexed, capsys):
    removed = [Snapshot.power(500, 0.05), Snapshot.power(500, 0.10), Snapshot.power(900, 0.10)]
    for snapshot in removed:
        (indexed / snapshot.file).unlink()
    store = SnapshotStore(indexed)
    warning = capsys.readouterr().err
    assert len(store.snapshots) == 17
    assert warning.startswith("warning: ")
    assert "3 snapshots" in warning
    assert any(snapshot.file in warning for snapshot in removed)
    left = [Power(s.nimg, s.sigma_rel) for s in store.snapshots]
    lengths = [0.05, 0.10, 0.15, 0.20, 0.25]
    errors = normalized(*solve_profiles(left, [Power(1000, length) for length in lengths]))[1]
    reported = re.findall(r"([\d.]+)% at ([\d.]+\d)", warning)
    assert [float(length) for _, length in reported] == lengths
    assert [float(error) for error, _ in reported] == pytest.approx(100 * errors, abs=0.051)


def test_a_store_with_a_missing_snapshot_is_reconstructed_from_the_others(indexed):
    (indexed / Snapshot.power(500, 0.10).file).unlink()
    ((average, tensors),) = reconstruct(SnapshotStore(indexed), [0.05])
    assert average.snapshots == 19
    last = load_file(indexed / Snapshot.power(1000, 0.05).file)["w"].float()
    torch.testing.assert_close(tensors["w"], last)


def test_missing_snapshots_at_the_end_are_refused(indexed):
    for length in LENGTHS:
        (indexed / Snapshot.power(1000, length).file).unlink()
    with pytest.raises(UserError, match=f"{indexed}: .* 1000 images"):
        SnapshotStore(indexed)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def overwrite(path):
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("nimg", [200, 1000])
@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_opening_refuses_a_damaged_file_by_name(indexed, nimg, damage):
    file = Snapshot.power(nimg, 0.05).file
    damage(indexed / file)
    with pytest.raises(UserError, match=file):
        SnapshotStore(indexed)


def test_a_flipped_bit_is_found_by_verification(indexed):
    file = Snapshot.power(200, 0.05).file
    flip_a_bit(indexed / file)
    (problem,) = damaged_files([indexed])
    assert file in problem


@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_a_damaged_file_is_refused_without_a_manifest_too(running, damage):
    file = Snapshot.power(200, 0.05).file
    damage(running / file)
    with pytest.raises(UserError, match=file):
        SnapshotStore(running)


def test_other_files_that_a_manifest_lists_must_exist(running):
    (running / "notes.txt").write_text("listed")
    write_index(SnapshotStore(running))
    (running / "notes.txt").unlink()
    with pytest.raises(UserError, match=r"notes\.txt"):
        SnapshotStore(running)
