"""Averages written to files piece by piece: the same sums, each byte read once, little memory."""

import os
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import (
    Snapshot,
    SnapshotStore,
    Target,
    reconstruct,
    reconstruct_files,
    solve_weights,
    write_snapshot,
)
from edm2.ema import combine as combining
from edm2.ema.combine import combine
from edm2.params import UserError

SHAPES = {"a.weight": (7, 11), "gain": (), "z": (3, 5, 2), "bias": (13,), "empty": (0, 4)}
TIMES, LENGTHS, LATEST = (100, 200, 300, 400), (0.05, 0.10), 400
EXACT = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of a value's rounding


def make_store(folder, dtype=torch.float32, shapes=SHAPES):
    rng = np.random.default_rng(0)
    for nimg in TIMES:
        for length in LENGTHS:
            tensors = {
                name: torch.from_numpy(np.asarray(rng.normal(size=shape))).float()
                for name, shape in shapes.items()
            }
            tensors |= {"freqs": torch.full((4,), nimg / 4), "count": torch.tensor([nimg, 7])}
            buffers = ["freqs", "count"]
            write_snapshot(folder, Snapshot.power(nimg, length), tensors, buffers, dtype)
    return SnapshotStore(folder)


def by_hand(store, name, length, nimg=LATEST):
    """Σ x θ̂ in float64."""
    snapshots = store.snapshots
    x = solve_weights(
        [s.nimg for s in snapshots], [s.sigma_rel for s in snapshots], [nimg], [length]
    )[:, 0]
    files = [load_file(store.path(s))[name].double().numpy() for s in snapshots]
    return np.einsum("i,i...->...", x, np.stack(files))


def whole(store, weights):
    """What `combine` hands over, as tensors [sums, values] by name: pieces without overlap or gap."""
    paths, found = [store.path(s) for s in store.snapshots], {}
    combine(
        paths,
        store.parameters,
        weights,
        lambda name, begin, sums: found.setdefault(name, {}).update({begin: sums.clone()}),
    )
    for name, parts in found.items():
        ends = np.cumsum([0, *(parts[begin].shape[1] for begin in sorted(parts))])
        assert sorted(parts) == list(ends[:-1])
        found[name] = torch.cat([parts[begin] for begin in sorted(parts)], 1)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_pieces_and_change_nothing(tmp_path, monkeypatch, threads):
    """Nor do they change how many threads PyTorch has, even if one fails."""
    monkeypatch.setattr(combining, "PIECE_VALUES", 40)
    monkeypatch.setattr(combining, "PRODUCT_VALUES", 24)
    store = make_store(tmp_path / "store")
    weights = torch.randn(3, len(store.snapshots))
    expected = whole(store, lambda _: weights)
    torch.set_num_threads(threads)
    found = whole(store, lambda _: weights)
    assert all(torch.equal(found[name], sums) for name, sums in expected.items())

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        combine([store.path(s) for s in store.snapshots], store.parameters, lambda _: weights, fail)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("piece_values", "product_values"),
    [(1, 1), (8, 8), (40, 40), (40, 24), (7 * 8, 1), (7 * 8, 999), (2**23, 2**20)],
)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("out_dtype", EXACT, ids=str)
def test_files_and_memory_hold_the_plain_sum(
    tmp_path, monkeypatch, piece_values, product_values, dtype, out_dtype
):
    """For pieces of one value, of some that divide a tensor's or do not, and of all; and for products
    of a piece's parts.
    """
    monkeypatch.setattr(combining, "PIECE_VALUES", piece_values)
    monkeypatch.setattr(combining, "PRODUCT_VALUES", product_values)
    store, lengths = make_store(tmp_path / "store", dtype), (0.03, 0.08, 0.15)
    targets = {tmp_path / f"{s}.safetensors": Target(s) for s in lengths}
    made = reconstruct_files(store, targets, out_dtype)
    in_memory = list(reconstruct(store, lengths))
    assert made == [spec for spec, _ in in_memory]
    assert [spec.sigma_rel for spec in made] == list(lengths)
    for path, (spec, held) in zip(targets, in_memory, strict=True):
        found = load_file(path)
        assert set(found) == set(held) == {*SHAPES, "freqs", "count"}
        for name, shape in SHAPES.items():
            expected = by_hand(store, name, spec.sigma_rel)
            assert found[name].dtype == out_dtype
            assert held[name].dtype == torch.float32
            assert found[name].shape == held[name].shape == shape
            np.testing.assert_allclose(held[name].numpy(), expected, rtol=1e-5, atol=2e-5)
            assert torch.equal(found[name], held[name].to(out_dtype))
            np.testing.assert_allclose(
                found[name].double().numpy(), expected, rtol=EXACT[out_dtype], atol=2e-5
            )


def test_buffers_are_copied_whole_and_integers_stay_integers(tmp_path):
    store = make_store(tmp_path / "store")
    targets = {tmp_path / "a.safetensors": Target(0.08), tmp_path / "b.safetensors": Target(0.2)}
    reconstruct_files(store, targets, torch.float16)
    for path in targets:
        found = load_file(path)
        assert found["freqs"].tolist() == [100.0] * 4
        assert found["count"].tolist() == [400, 7]
        assert found["count"].dtype == torch.int64


def test_averages_of_other_times_come_from_what_was_stored_until_then(tmp_path):
    """Together in one pass as each alone: sums, buffers and description."""
    store = make_store(tmp_path / "store")
    wanted = {"x": Target(0.08, 200), "y": Target(0.08, 400), "z": Target(0.15, 350)}
    together = {tmp_path / f"{name}.safetensors": t for name, t in wanted.items()}
    made = reconstruct_files(store, together, torch.float32)
    for (path, target), spec in zip(together.items(), made, strict=True):
        alone = tmp_path / "alone.safetensors"
        assert reconstruct_files(store, {alone: target}, torch.float32) == [spec]
        assert spec.nimg == target.nimg
        assert spec.snapshots == 2 * (target.nimg // 100)
        expected = by_hand(store, "z", target.sigma_rel, target.nimg)
        np.testing.assert_allclose(load_file(path)["z"].numpy(), expected, rtol=1e-5, atol=2e-5)
        found, other = load_file(path), load_file(alone)
        for name in other:
            torch.testing.assert_close(found[name], other[name], rtol=1e-6, atol=1e-6, msg=name)


def test_lengths_of_single_tensors_change_those_tensors_alone(tmp_path):
    store = make_store(tmp_path / "store")
    plain, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    others = {"a.weight": 0.2, "gain": 0.03}
    targets = {plain: Target(0.08), other: Target(0.08, others=others)}
    specs = reconstruct_files(store, targets, torch.float32)
    one, two = load_file(plain), load_file(other)
    for name in one:
        assert torch.equal(one[name], two[name]) == (name not in others)
    for name, length in others.items():
        expected = by_hand(store, name, length)
        np.testing.assert_allclose(two[name].numpy(), expected, rtol=1e-5, atol=2e-5)
    errors = {spec.sigma_rel: spec.error for spec, _ in reconstruct(store, [0.08, 0.2, 0.03])}
    assert specs[0].error == pytest.approx(errors[0.08])
    assert specs[1].error == pytest.approx(max(errors.values()))
    assert specs[1].sigma_rel == 0.08


@pytest.mark.parametrize("piece_values", [24, 2**21])
def test_each_byte_is_read_exactly_once_whatever_the_number_of_sums(
    tmp_path, monkeypatch, piece_values
):
    monkeypatch.setattr(combining, "PIECE_VALUES", piece_values)
    store, read, held = make_store(tmp_path / "store"), Counter(), threading.Lock()
    plain = os.preadv

    def counted(descriptor, buffers, position):
        done, name = (
            plain(descriptor, buffers, position),
            os.readlink(f"/proc/self/fd/{descriptor}"),
        )
        with held:
            read.update((os.path.basename(name), at) for at in range(position, position + done))
        return done

    monkeypatch.setattr(os, "preadv", counted)
    weights = torch.ones(5, len(store.snapshots))
    whole(store, lambda _: weights)
    values = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert set(read.values()) == {1}
    assert Counter(file for file, _ in read) == {s.file: 4 * values for s in store.snapshots}


@pytest.mark.parametrize("piece_values", [1, 100, 2**22])
def test_a_sum_is_that_of_its_row_of_weights(tmp_path, monkeypatch, piece_values):
    monkeypatch.setattr(combining, "PIECE_VALUES", piece_values)
    store = make_store(tmp_path / "store")
    weights = torch.randn(3, len(store.snapshots))
    rows = {name: weights * k for k, name in enumerate(store.parameters, 1)}
    found = whole(store, rows.__getitem__)
    assert set(found) == set(store.parameters) - {"empty"}
    for name, sums in found.items():
        files = [load_file(store.path(s))[name].double().numpy().ravel() for s in store.snapshots]
        expected = rows[name].double().numpy() @ np.stack(files)
        np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("snapshots", [1, 2, 30])
@pytest.mark.parametrize("sums", [1, 40])
def test_no_tensor_is_larger_than_a_piece(tmp_path, monkeypatch, snapshots, sums):
    """Of 8 bytes a value, whatever the number of files and sums, and however large their tensors."""
    monkeypatch.setattr(combining, "PIECE_VALUES", 600)
    paths, largest, empty = [], [], torch.empty
    for k in range(snapshots):
        paths.append(tmp_path / f"{k}.safetensors")
        save_file({"x": torch.ones(100, 50), "y": torch.ones(7)}, paths[-1])

    def allocated(*size, **options):  # all that a worker needs
        largest.append(empty(*size, **options).nbytes)
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", allocated)
    weights, counts = torch.ones(sums, snapshots), []
    combine(
        paths,
        ["x", "y"],
        lambda _: weights,
        lambda name, begin, found: counts.append(found.shape[1]),
    )
    assert sum(counts) == 5007
    assert 0 < max(largest) <= 600 * 8
    assert len(largest) <= 3 * torch.get_num_threads()


def test_what_does_not_fit_float16_is_refused_and_leaves_no_file(tmp_path):
    folder, out = tmp_path / "store", tmp_path / "out"
    for nimg in (100, 200):
        for length in LENGTHS:
            tensors = {"fits": torch.ones(5), "large": torch.full((2,), 7e4)}
            write_snapshot(folder, Snapshot.power(nimg, length), tensors, [], torch.float32)
    store = SnapshotStore(folder)
    targets = {out / "a.safetensors": Target(0.08), out / "b.safetensors": Target(0.1)}
    with pytest.raises(UserError, match="tensor large: not all values are finite in .*float16"):
        reconstruct_files(store, targets, torch.float16)
    assert not list(out.iterdir())
    reconstruct_files(store, targets, torch.bfloat16)
    assert {path.name for path in out.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_refused_sum_leaves_the_file_that_stood_there(tmp_path):
    store = make_store(tmp_path / "store")
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"before")
    broken = {"a.weight": torch.full(SHAPES["a.weight"], torch.nan)}
    last = store.path(store.snapshots[-1])
    save_file({**load_file(last), **broken}, last)
    with pytest.raises(UserError, match=r"a\.weight"):
        reconstruct_files(store, {path: Target(0.08)}, torch.float32)
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.safetensors", "store"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"z": torch.ones(3, 2, 5)}, r"tensor z: .*\[3, 2, 5\], expected .*\[3, 5, 2\]"),
        ({"z": torch.ones(3, 5, 2).half()}, r"tensor z: .*float16 .*expected .*float32"),
        ({"z": None}, "tensor z: missing, expected"),
    ],
)
@pytest.mark.parametrize("which", [0, 3, 7])
def test_snapshots_of_other_networks_are_refused_by_name(tmp_path, change, complaint, which):
    """Also where the first or the last of them is the odd one."""
    store = make_store(tmp_path / "store")
    path = store.path(store.snapshots[which])
    spoiled = {name: t for name, t in {**load_file(path), **change}.items() if t is not None}
    save_file(spoiled, path)
    with pytest.raises(UserError, match=r"\.safetensors: tensor z") as refused:
        reconstruct_files(store, {tmp_path / "x.safetensors": Target(0.08)}, torch.float32)
    if which == 3:
        assert path.name in str(refused.value)
        refused.match(complaint)
    assert not (tmp_path / "x.safetensors").exists()
