"""Snapshots on disk."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, reconstruct, write_snapshot
from edm2.ema.index import write_index
from edm2.ema.snapshot import remove_snapshots_after, write_tensors
from edm2.ema.store import check_headers, check_values
from edm2.params import UserError


def tensors(value=1.0):
    return {"conv.weight": torch.full((2, 3), value), "gain": torch.tensor(value)}


def write(folder, nimg, averages):
    """Averages of training time `nimg` by length."""
    for length, average in averages.items():
        write_snapshot(folder, Snapshot.power(nimg, length), average, [])


def snapshots_in(folder):
    return SnapshotStore(folder).snapshots


def make_store(folder, times=(100, 200)):
    for nimg in times:
        write(folder, nimg, {0.05: tensors(), 0.1: tensors(2.0)})
    return folder


def replace(folder, snapshot, tensors):
    """Write other tensors to a snapshot's file, with the same metadata."""
    with safe_open(folder / snapshot.file, framework="pt") as file:
        metadata = file.metadata()
    save_file({n: t.half() for n, t in tensors.items()}, folder / snapshot.file, metadata)


@pytest.mark.parametrize("nimg", [7, 8_388_608, 2_147_483_648])
def test_times_and_lengths_round_trip_exactly(tmp_path, nimg):
    lengths = [0.05, 0.1, 0.125, 0.015, 5e-05, 0.1 + 0.2 - 0.05]
    write(tmp_path, nimg, {sigma_rel: tensors() for sigma_rel in lengths})
    snapshots = snapshots_in(tmp_path)
    assert [(s.nimg, s.sigma_rel) for s in snapshots] == [(nimg, s) for s in sorted(lengths)]
    assert snapshots == [Snapshot.power(nimg, s) for s in sorted(lengths)]
    assert all((tmp_path / s.file).is_file() for s in snapshots)


def test_snapshots_of_time_0_are_skipped_and_named(tmp_path, capsys):
    """A loop that starts at step 0 writes them: of both kinds, power and traditional."""
    start = [Snapshot.power(0, 0.1), Snapshot.traditional(0, 10, 0.1)]
    for snapshot in start:
        write_snapshot(tmp_path, snapshot, tensors(), [])
    with pytest.raises(UserError, match=f"{tmp_path}: .*time 0"):
        SnapshotStore(tmp_path)
    make_store(tmp_path, (100, 200, 300))
    store = SnapshotStore(tmp_path)
    assert [s.nimg for s in store.snapshots] == [100, 100, 200, 200, 300, 300]
    message = capsys.readouterr().err
    assert all(snapshot.file in message for snapshot in start)
    write_index(store)  # lists the files, which are not missing when it is read
    assert SnapshotStore(tmp_path).snapshots == store.snapshots
    ((average, made),) = reconstruct(store, [0.1])
    assert (average.snapshots, average.error < 1e-6) == (6, True)
    assert made["conv.weight"].eq(2).all()


def test_a_traditional_average_round_trips_exactly(tmp_path):
    written = Snapshot.traditional(3000, 1e9 / 7, 0.05)
    write_snapshot(tmp_path, written, tensors(), ["gain"])
    store = SnapshotStore(tmp_path)
    assert store.snapshots == [written]
    assert (store.buffers, store.parameters) == (["gain"], ["conv.weight"])


def test_averages_of_two_kinds_at_one_time_have_their_own_files(tmp_path):
    both = {Snapshot.power(64, 0.05): tensors(1.0), Snapshot.traditional(64, 10, 0.1): tensors(2.0)}
    for snapshot, written in both.items():
        write_snapshot(tmp_path, snapshot, written, [])
    assert set(snapshots_in(tmp_path)) == set(both)
    assert {s.average for s in both} == {"power", "traditional"}
    for snapshot, written in both.items():
        with safe_open(tmp_path / snapshot.file, framework="pt") as file:
            assert file.get_tensor("gain") == written["gain"]


def test_snapshots_are_ordered_by_time_then_length(tmp_path):
    for nimg in (1000, 20, 300):
        write(tmp_path, nimg, {0.1: tensors(), 0.05: tensors()})
    order = [(s.nimg, s.sigma_rel) for s in snapshots_in(tmp_path)]
    assert order == [(20, 0.05), (20, 0.1), (300, 0.05), (300, 0.1), (1000, 0.05), (1000, 0.1)]


def test_snapshots_are_written_in_16_bits(tmp_path):
    values = torch.linspace(-3, 3, 100)
    write(tmp_path, 5, {0.1: {"a": values, "count": torch.tensor(70_000)}})
    with safe_open(tmp_path / Snapshot.power(5, 0.1).file, framework="pt") as file:
        assert file.get_tensor("a").dtype == torch.float16
        torch.testing.assert_close(file.get_tensor("a").float(), values, rtol=2**-10, atol=1e-4)
        assert file.get_tensor("count") == torch.tensor(70_000)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_values_that_do_not_fit_are_refused_and_leave_no_file(tmp_path, bad):
    """1e6 is finite in float32 and infinite in float16."""
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"x\.safetensors: .*conv\.b.*float16"):
        write_tensors(
            path, {"conv.a": torch.ones(2), "conv.b": torch.tensor([1.0, bad])}, torch.float16
        )
    assert not list(tmp_path.iterdir())


def test_rollback_removes_later_snapshots(tmp_path):
    for nimg in (100, 200, 300):
        write(tmp_path, nimg, {0.05: tensors(), 0.125: tensors()})
    (tmp_path / "network.safetensors").touch()
    remove_snapshots_after(tmp_path, 200)
    assert {s.nimg for s in snapshots_in(tmp_path)} == {100, 200}
    assert len(snapshots_in(tmp_path)) == 4
    assert (tmp_path / "network.safetensors").exists()
    remove_snapshots_after(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_a_diverged_training_is_reported_with_tensor_time_and_fix(tmp_path, bad):
    """The snapshots before it are kept, and the store can be used."""
    write(tmp_path, 100, {0.05: tensors()})
    with pytest.raises(UserError, match=r"conv\.weight.* 200 images.* learning rate") as refusal:
        write(tmp_path, 200, {0.05: tensors(bad)})
    assert str(tmp_path / Snapshot.power(200, 0.05).file) in str(refusal.value)
    assert snapshots_in(tmp_path) == [Snapshot.power(100, 0.05)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex64], ids=str
)
def test_dtypes_that_cannot_be_read_back_are_refused_when_written(tmp_path, dtype):
    with pytest.raises(UserError, match=f"tensor count: {dtype}.*torch.int64"):
        write(tmp_path, 100, {0.05: {**tensors(), "count": torch.ones(2).to(dtype)}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tensors_that_share_memory_are_written_each(tmp_path, dtype):
    whole = torch.arange(4.0)
    shared = {"a": whole, "b": whole, "half": whole[:2], "count": torch.tensor(3)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, {**shared, "same": shared["count"]}, dtype)
    stored = load_file(path)
    assert stored["a"].tolist() == stored["b"].tolist() == [0, 1, 2, 3]
    assert stored["half"].tolist() == [0, 1]
    assert stored["same"] == stored["count"] == 3


def test_a_valid_folder_passes_both_checks(tmp_path):
    store = SnapshotStore(make_store(tmp_path))
    check_headers(store)
    check_values(store)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_reported_by_file_and_tensor(tmp_path, bad):
    store = SnapshotStore(make_store(tmp_path))
    file = Snapshot.power(200, 0.05).file
    changed = tensors()
    changed["conv.weight"][1, 2] = bad
    replace(tmp_path, Snapshot.power(200, 0.05), changed)
    check_headers(store)
    with pytest.raises(UserError, match=rf"{file}: tensor conv\.weight"):
        check_values(store)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"conv.weight": torch.ones(3, 2), "gain": torch.tensor(1.0)}, r"conv\.weight"),
        ({"conv.weight": torch.ones(2, 3)}, "gain"),
        ({**tensors(), "new": torch.ones(1)}, "new"),
    ],
)
def test_a_snapshot_of_another_network_is_reported_by_file_and_tensor(tmp_path, other, name):
    store = SnapshotStore(make_store(tmp_path))
    file = Snapshot.power(200, 0.1).file
    replace(tmp_path, Snapshot.power(200, 0.1), other)
    with pytest.raises(UserError, match=rf"{file}: tensor {name}"):
        check_headers(store)


@pytest.mark.parametrize("check", [check_headers, check_values])
def test_a_file_that_cannot_be_read_is_reported(tmp_path, check):
    store = SnapshotStore(make_store(tmp_path))
    file = Snapshot.power(100, 0.1).file
    (tmp_path / file).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=file):
        check(store)


def test_an_opened_store_lists_its_snapshots(tmp_path):
    store = SnapshotStore(make_store(tmp_path))
    assert [(s.nimg, s.sigma_rel) for s in store.snapshots] == [
        (100, 0.05),
        (100, 0.1),
        (200, 0.05),
        (200, 0.1),
    ]
    assert store.end == 200
    with safe_open(store.path(store.snapshots[1]), framework="pt") as file:
        assert file.get_tensor("gain") == 2.0
