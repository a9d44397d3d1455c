"""Snapshots on disk."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from edm2.ema.store import (
    Snapshot,
    SnapshotStore,
    check_snapshots,
    describe,
    remove_snapshots_after,
    snapshots_in,
    write_snapshots,
    write_tensors,
)
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest


def tensors(value=1.0):
    return {"conv.weight": torch.full((2, 3), value), "gain": torch.tensor(value)}


def write(folder, nimg, averages):
    """Averages of training time `nimg` by length."""
    write_snapshots(folder, {Snapshot.of(nimg, length): a for length, a in averages.items()})


def make_store(folder, times=(100, 200)):
    for nimg in times:
        write(folder, nimg, {0.05: tensors(), 0.1: tensors(2.0)})
    write_manifest(folder, snapshots=describe(snapshots_in(folder)), buffers=[])
    return folder


@pytest.mark.parametrize("nimg", [7, 8_388_608, 2_147_483_648])
def test_file_names_round_trip(tmp_path, nimg):
    lengths = [0.05, 0.1, 0.125, 0.015, 0.1 + 0.2 - 0.05]
    write(tmp_path, nimg, {sigma_rel: tensors() for sigma_rel in lengths})
    found = snapshots_in(tmp_path)
    assert [(s.nimg, s.sigma_rel) for s in found] == [(nimg, s) for s in sorted(lengths)]
    assert all((tmp_path / s.file).is_file() for s in found)


def test_file_names_of_lengths_below_1e_4_round_trip(tmp_path):
    """Python writes them with an exponent, 5e-05, whose minus is no separator."""
    both = [Snapshot.of(64, 5e-05), Snapshot.of(64, 6e-05, "traditional")]
    write_snapshots(tmp_path, {snapshot: tensors() for snapshot in both})
    found = [(s.nimg, s.sigma_rel, s.average) for s in snapshots_in(tmp_path)]
    assert found == [(64, 5e-05, "power"), (64, 6e-05, "traditional")]


def test_averages_of_one_time_and_length_but_other_kinds_stay_apart(tmp_path):
    both = {Snapshot.of(64, 0.05): tensors(1.0), Snapshot.of(64, 0.05, "traditional"): tensors(2.0)}
    write_snapshots(tmp_path, both)
    assert set(snapshots_in(tmp_path)) == set(both)
    for snapshot, written in both.items():
        with safe_open(tmp_path / snapshot.file, framework="pt") as file:
            assert file.get_tensor("gain") == written["gain"]


def test_snapshots_are_ordered_by_time_then_length(tmp_path):
    for nimg in (1000, 20, 300):
        write(tmp_path, nimg, {0.1: tensors(), 0.05: tensors()})
    found = [(s.nimg, s.sigma_rel) for s in snapshots_in(tmp_path)]
    assert found == [(20, 0.05), (20, 0.1), (300, 0.05), (300, 0.1), (1000, 0.05), (1000, 0.1)]


def test_snapshots_are_written_in_16_bits(tmp_path):
    values = torch.linspace(-3, 3, 100)
    write(tmp_path, 5, {0.1: {"a": values, "count": torch.tensor(70_000)}})
    with safe_open(tmp_path / Snapshot.of(5, 0.1).file, framework="pt") as file:
        assert file.get_tensor("a").dtype == torch.float16
        torch.testing.assert_close(file.get_tensor("a").float(), values, rtol=2**-10, atol=1e-4)
        assert file.get_tensor("count") == torch.tensor(70_000)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_values_that_do_not_fit_are_refused_and_leave_no_file(tmp_path, bad):
    """1e6 is finite in float32 and infinite in float16."""
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"x\.safetensors: tensor conv\.b: .*float16"):
        write_tensors(path, {"conv.a": torch.ones(2), "conv.b": torch.tensor([1.0, bad])},
                      torch.float16)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_rollback_removes_what_came_after(tmp_path):
    for nimg in (100, 200, 300):
        write(tmp_path, nimg, {0.05: tensors(), 0.125: tensors()})
    (tmp_path / "network.safetensors").touch()
    remove_snapshots_after(tmp_path, 200)
    assert {s.nimg for s in snapshots_in(tmp_path)} == {100, 200}
    assert len(snapshots_in(tmp_path)) == 4
    assert (tmp_path / "network.safetensors").exists()
    remove_snapshots_after(tmp_path, 0)
    assert not snapshots_in(tmp_path)


def test_a_sound_folder_passes_the_check(tmp_path):
    make_store(tmp_path)
    check_snapshots(tmp_path, snapshots_in(tmp_path))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_check_names_the_file_and_tensor_of_non_finite_values(tmp_path, bad):
    make_store(tmp_path)
    file = Snapshot.of(200, 0.05).file
    spoiled = tensors()
    spoiled["conv.weight"][1, 2] = bad
    save_file(spoiled, tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: tensor conv\.weight: not all values are finite"):
        check_snapshots(tmp_path, snapshots_in(tmp_path))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"conv.weight": torch.ones(3, 2), "gain": torch.tensor(1.0)}, r"conv\.weight"),
        ({"conv.weight": torch.ones(2, 3)}, "gain"),
        ({**tensors(), "new": torch.ones(1)}, "new"),
    ],
)
def test_check_names_the_file_and_tensor_of_another_network(tmp_path, other, name):
    make_store(tmp_path)
    file = Snapshot.of(200, 0.1).file
    save_file(other, tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: tensors differ .* in {name}\."):
        check_snapshots(tmp_path, snapshots_in(tmp_path))


def test_check_names_a_file_that_cannot_be_read(tmp_path):
    make_store(tmp_path)
    file = Snapshot.of(100, 0.1).file
    (tmp_path / file).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=rf"{file}: cannot be read"):
        check_snapshots(tmp_path, snapshots_in(tmp_path))


def test_an_opened_store_knows_its_snapshots(tmp_path):
    store = SnapshotStore(make_store(tmp_path))
    assert [(s.nimg, s.sigma_rel) for s in store.snapshots] == [
        (100, 0.05), (100, 0.1), (200, 0.05), (200, 0.1)]  # fmt: skip
    assert store.end == 200
    with store.open(store.snapshots[1]) as file:
        assert file.get_tensor("gain") == 2.0


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (flip_a_bit, "corrupt"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_opening_names_the_spoiled_file(tmp_path, spoil, complaint):
    make_store(tmp_path)
    file = Snapshot.of(200, 0.05).file
    spoil(tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: .*{complaint}"):
        SnapshotStore(tmp_path)


def test_a_folder_without_snapshots_is_no_store(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: not there"):
        SnapshotStore(tmp_path)
    write_manifest(tmp_path, snapshots=[], buffers=[])
    with pytest.raises(UserError, match="holds no snapshots"):
        SnapshotStore(tmp_path)
