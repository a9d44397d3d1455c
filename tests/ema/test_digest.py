"""Snapshots are compared with their checksums in the pass that reconstructs from them."""

import json
import os
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from edm2.ema import Snapshot, SnapshotStore, Target, reconstruct, reconstruct_files, write_snapshot
from edm2.ema import combine as combining
from edm2.ema.fixed import copy_files
from edm2.ema.index import write_index
from edm2.ema.tensorfile import load_tensors
from edm2.params import UserError

TIMES, LENGTHS = (100, 200, 300), (0.05, 0.1)
FILES = [Snapshot.power(nimg, length).file for nimg in TIMES for length in LENGTHS]


def write(folder, nimg, length, buffers):
    torch.manual_seed(nimg + int(1000 * length))
    averages = {f"{name}.weight": torch.randn(5, 7) for name in "adm"} | {"empty": torch.ones(0)}
    tensors = averages | buffers
    write_snapshot(folder, Snapshot.power(nimg, length), tensors, list(buffers), torch.float32)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with a manifest, of more chunks than threads; buffers before, between and after."""
    monkeypatch.setattr(combining, "CHUNK_VALUES", 60)
    for nimg in TIMES:
        for length in LENGTHS:
            history = torch.full((nimg // 100, 2), float(nimg), dtype=torch.float64)
            buffers = {"b": torch.ones(3), "calls": torch.tensor(nimg), "z": history}
            write(tmp_path / "store", nimg, length, buffers)
    write_index(SnapshotStore(tmp_path / "store"))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield SnapshotStore(tmp_path / "store")
    torch.set_num_threads(threads)


def test_each_byte_is_read_once(store, tmp_path, monkeypatch):
    reads, preadv = Counter(), os.preadv

    def counting(descriptor, buffers, position):
        count = preadv(descriptor, buffers, position)
        reads[os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))] += count
        return count

    monkeypatch.setattr(os, "preadv", counting)
    reconstruct_files(
        store, {tmp_path / "x": Target(0.07), tmp_path / "y": Target(0.08, 200)}, torch.float16
    )
    for name in FILES:
        path = store.folder / name
        header = int.from_bytes(path.read_bytes()[:8], "little")
        assert reads[name] == path.stat().st_size - 8 - header


def test_buffers_are_those_of_the_time_though_their_shape_changes(store, tmp_path):
    targets = {tmp_path / "x": Target(0.07), tmp_path / "y": Target(0.08, 200)}
    reconstruct_files(store, targets, torch.float16)
    for path, nimg in zip(targets, (300, 200), strict=True):
        tensors = load_file(path)
        assert tensors["calls"] == nimg
        expected = torch.full((nimg // 100, 2), float(nimg), dtype=torch.float64)
        assert torch.equal(tensors["z"], expected)
        assert tensors["z"].dtype == torch.float64
        assert tensors["a.weight"].dtype == torch.float16


@pytest.mark.parametrize("indexed", [True, False])
def test_buffers_may_come_and_go_but_averages_may_not(store, indexed):
    write(store.folder, 400, 0.05, {"late": torch.tensor(4)})
    (store.folder / "manifest.json").unlink()
    if indexed:
        write_index(SnapshotStore(store.folder))
    ((_, tensors),) = reconstruct(SnapshotStore(store.folder), [0.07])
    assert tensors.keys() == {"a.weight", "d.weight", "m.weight", "empty", "late"}
    ((_, tensors),) = reconstruct(SnapshotStore(store.folder), [0.07], 200)
    assert tensors.keys() == {"a.weight", "d.weight", "m.weight", "empty", "b", "calls", "z"}
    more = {**tensors, "more.weight": torch.ones(1)}
    buffers = ["b", "calls", "z"]
    write_snapshot(store.folder, Snapshot.power(350, 0.05), more, buffers, torch.float32)
    with pytest.raises(UserError, match=r"tensor more\.weight"):
        next(reconstruct(SnapshotStore(store.folder), [0.07]))


def flip(path, tensor):
    """Flip one bit of a tensor."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[tensor]["data_offsets"]
    data[8 + length + (begin + end) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES[::2])
@pytest.mark.parametrize("tensor", ["a.weight", "m.weight", "b", "z"])
def test_a_flipped_bit_is_refused_by_file_and_nothing_is_written(store, tmp_path, file, tensor):
    path = store.folder / file
    flip(path, tensor)
    with pytest.raises(UserError, match=rf"{file}: SHA-256.*expected.*dvc repro"):
        reconstruct_files(store, {tmp_path / "out/x": Target(0.07)}, torch.float32)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match=file):
        next(reconstruct(store, [0.07]))
    with pytest.raises(UserError, match=file):
        load_tensors(path)


def test_a_flip_that_makes_a_sum_too_large_is_not_blamed_on_the_training(store, tmp_path):
    path = store.folder / FILES[0]
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + length])["a.weight"]["data_offsets"]
    data[8 + length + begin + 3] ^= 0x40  # of the exponent
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{FILES[0]}: SHA-256"):
        reconstruct_files(store, {tmp_path / "x": Target(0.07)}, torch.float16)


def test_two_snapshots_in_each_others_place_are_refused(store, tmp_path):
    first, second = (store.folder / file for file in FILES[:2])
    first.rename(tmp_path / "held")
    second.rename(first)
    (tmp_path / "held").rename(second)
    with pytest.raises(UserError, match=rf"{FILES[0]}|{FILES[1]}"):
        next(reconstruct(SnapshotStore(store.folder), [0.07]))


def reverse(path):
    """Write the tensors of a file in the opposite order, as another program may."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, values, position = json.loads(data[8:start]), b"", 0
    metadata = header.pop("__metadata__")
    for entry in sorted(header.values(), key=lambda e: e["data_offsets"], reverse=True):
        begin, end = entry["data_offsets"]
        values += data[start + begin : start + end]
        entry["data_offsets"] = [position, position := position + end - begin]
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)


def test_a_file_in_another_order_is_compared_too(store):
    path = store.folder / FILES[2]
    ((_, expected),) = reconstruct(store, [0.07])
    reverse(path)
    write_index(store)
    ((_, tensors),) = reconstruct(store, [0.07])
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    flip(path, "a.weight")
    with pytest.raises(UserError, match=FILES[2]):
        next(reconstruct(store, [0.07]))


def test_an_error_while_others_wait_for_their_turn_ends_all(store):
    def consume(name, begin, sums):
        raise OSError("disk full")

    paths = [store.path(snapshot) for snapshot in store.snapshots]
    with pytest.raises(OSError, match="disk full"):
        combining.combine(
            paths, store.parameters, lambda _: torch.ones(1, len(paths)), consume, store.buffers
        )


def test_copies_of_fixed_averages_are_compared(tmp_path):
    snapshot = Snapshot.traditional(100, 50, 0.1)
    write_snapshot(tmp_path / "store", snapshot, {"w": torch.ones(3)}, [])
    store = SnapshotStore(tmp_path / "store")
    write_index(store)
    copy_files(store, {tmp_path / "x": Target(0.1)}, torch.float16)
    flip(store.path(snapshot), "w")
    with pytest.raises(UserError, match=snapshot.file):
        copy_files(store, {tmp_path / "y": Target(0.1)}, torch.float16)
