"""Stores that are not as they should be, or not yet: which can be used, and what is said."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, reconstruct, write_snapshot
from edm2.ema.gather import write_index
from edm2.ema.profile import Power
from edm2.ema.solve import solve_profiles
from edm2.params import UserError
from edm2.runtime.manifest import damaged_files, write_manifest

TIMES, LENGTHS = range(100, 1001, 100), (0.05, 0.10)


def put(folder, nimg, length):
    tensors = {"w": torch.full((3,), float(nimg)), "freqs": torch.ones(2)}
    write_snapshot(folder, Snapshot.power(nimg, length), tensors, ["freqs"])


@pytest.fixture
def going_on(tmp_path):
    """The folder of a training that goes on: no manifest."""
    for nimg in TIMES:
        for length in LENGTHS:
            put(tmp_path, nimg, length)
    return tmp_path


@pytest.fixture
def indexed(going_on):
    write_index(SnapshotStore(going_on))
    return going_on


def test_a_training_that_goes_on_can_be_read(going_on, capsys):
    store = SnapshotStore(going_on)
    assert (store.end, store.buffers, store.parameters) == (1000, ["freqs"], ["w"])
    assert store.snapshots == sorted(Snapshot.power(t, s) for t in TIMES for s in LENGTHS)
    put(going_on, 1100, 0.05)
    later = SnapshotStore(going_on)
    assert (later.end, len(later.snapshots)) == (1100, 21)
    ((spec, _),) = reconstruct(later, [0.08])
    assert spec.nimg == 1100
    assert capsys.readouterr().err == ""


def test_what_is_still_being_written_is_no_snapshot(going_on):
    (going_on / ".ema-0.05-000000001100.safetensors.1.partial").write_bytes(b"half")
    (going_on / "network.safetensors").write_bytes(b"another file")
    assert SnapshotStore(going_on).end == 1000


def test_a_tensor_file_of_another_origin_is_refused_with_the_way_out(going_on):
    save_file({"w": torch.ones(3)}, going_on / "ema-0.05-000000001100.safetensors")
    with pytest.raises(UserError, match=r"ema-0\.05-000000001100.* no snapshot.*`write_snapshot`"):
        SnapshotStore(going_on)


@pytest.mark.parametrize("said", ["no JSON", "[]", "{}", '{"nimg": 5}', "5", None])
def test_metadata_that_are_no_snapshots_are_refused_by_name(going_on, said):
    facts = {"snapshot": said} if said else {"format": "pt"}
    save_file({"w": torch.ones(3)}, going_on / "ema-x-000000001100.safetensors", facts)
    with pytest.raises(UserError, match=r"ema-x-000000001100\.safetensors"):
        SnapshotStore(going_on)


def test_metadata_that_do_not_name_buffers_are_refused_by_name(going_on):
    facts = {"nimg": 1100, "sigma_rel": 0.05, "halflife_nimg": None, "rampup": None}
    save_file(
        {"w": torch.ones(3)},
        going_on / "ema-x-000000001100.safetensors",
        {"snapshot": json.dumps(facts)},
    )
    with pytest.raises(UserError, match=r"ema-x-000000001100\.safetensors"):
        SnapshotStore(going_on)


@pytest.mark.parametrize("listed", [True, False])
def test_a_folder_without_snapshots_is_no_store(tmp_path, listed):
    if listed:
        write_manifest(tmp_path, snapshots=[], buffers=[])
    with pytest.raises(UserError, match="holds no snapshots"):
        SnapshotStore(tmp_path)


def test_a_whole_store_is_opened_without_a_word(indexed, capsys):
    assert len(SnapshotStore(indexed).snapshots) == 20
    assert capsys.readouterr().err == ""


def test_missing_snapshots_in_the_middle_are_told_with_the_errors_that_follow(indexed, capsys):
    gone = [Snapshot.power(500, 0.05), Snapshot.power(500, 0.10), Snapshot.power(900, 0.10)]
    for snapshot in gone:
        (indexed / snapshot.file).unlink()
    store = SnapshotStore(indexed)
    told = capsys.readouterr().err
    assert len(store.snapshots) == 17
    assert told.startswith("warning: ")
    assert "3 snapshots are missing" in told
    assert any(snapshot.file in told for snapshot in gone)
    left = [Power(s.nimg, s.sigma_rel) for s in store.snapshots]
    lengths = [0.05, 0.10, 0.15, 0.20, 0.25]
    errors = solve_profiles(left, [Power(1000, length) for length in lengths])[1]
    said = re.findall(r"([\d.]+)% at ([\d.]+\d)", told)
    assert [float(length) for _, length in said] == lengths
    assert [float(error) for error, _ in said] == pytest.approx(100 * errors, abs=0.051)


def test_a_store_with_a_gap_makes_what_the_others_can(indexed):
    (indexed / Snapshot.power(500, 0.10).file).unlink()
    ((spec, found),) = reconstruct(SnapshotStore(indexed), [0.05])
    assert spec.snapshots == 19
    last = load_file(indexed / Snapshot.power(1000, 0.05).file)["w"].float()
    torch.testing.assert_close(found["w"], last)


def test_missing_snapshots_at_the_end_are_refused(indexed):
    for length in LENGTHS:
        (indexed / Snapshot.power(1000, length).file).unlink()
    with pytest.raises(UserError, match="end of training, 1000 images, are missing"):
        SnapshotStore(indexed)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def garble(path):
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("nimg", [200, 1000])
@pytest.mark.parametrize(("spoil", "complaint"), [(cut, "truncated"), (garble, "cannot be read")])
def test_opening_refuses_a_file_that_is_not_whole(indexed, nimg, spoil, complaint):
    file = Snapshot.power(nimg, 0.05).file
    spoil(indexed / file)
    with pytest.raises(UserError, match=rf"{file}: .*{complaint}"):
        SnapshotStore(indexed)


def test_verification_finds_a_flipped_bit(indexed):
    file = Snapshot.power(200, 0.05).file
    flip_a_bit(indexed / file)
    (problem,) = damaged_files(indexed)
    assert file in problem


@pytest.mark.parametrize("spoil", [cut, garble])
def test_a_spoiled_file_is_refused_without_checksums_too(going_on, spoil):
    file = Snapshot.power(200, 0.05).file
    spoil(going_on / file)
    with pytest.raises(UserError, match=rf"{file}: cannot be read"):
        SnapshotStore(going_on)


def test_other_files_that_a_manifest_lists_must_be_there(going_on):
    (going_on / "notes.txt").write_text("listed")
    write_index(SnapshotStore(going_on))
    (going_on / "notes.txt").unlink()
    with pytest.raises(UserError, match=r"notes\.txt: missing"):
        SnapshotStore(going_on)
