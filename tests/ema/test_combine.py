"""Averages written to files chunk by chunk: the same sums, each byte read once, little memory."""

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
from edm2.params.errors import NotFiniteError

SHAPES = {"a.weight": (7, 11), "gain": (), "z": (3, 5, 2), "bias": (13,), "empty": (0, 4)}
TIMES, LENGTHS, LATEST = (100, 200, 300, 400), (0.05, 0.10), 400
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # relative


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


def expected_sum(store, name, length, nimg=LATEST):
    """Σ x θ̂ in float64."""
    snapshots = store.snapshots
    x = solve_weights(
        [s.nimg for s in snapshots], [s.sigma_rel for s in snapshots], [nimg], [length]
    )[:, 0]
    files = [load_file(store.path(s))[name].double().numpy() for s in snapshots]
    return np.einsum("i,i...->...", x, np.stack(files))


def combined(store, weights):
    """Tensors [sums, values] by name, from the chunks that `combine` passes on, which must adjoin."""
    paths, tensors = [store.path(s) for s in store.snapshots], {}
    combine(
        paths,
        store.parameters,
        weights,
        lambda name, begin, sums: tensors.setdefault(name, {}).update({begin: sums.clone()}),
    )
    for name, chunks in tensors.items():
        ends = np.cumsum([0, *(chunks[begin].shape[1] for begin in sorted(chunks))])
        assert sorted(chunks) == list(ends[:-1])
        tensors[name] = torch.cat([chunks[begin] for begin in sorted(chunks)], 1)
    return tensors


@pytest.mark.parametrize("threads", [1, 3])
def test_sums_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch, threads):
    """And PyTorch has as many threads as before, even if one fails."""
    monkeypatch.setattr(combining, "CHUNK_VALUES", 40)
    monkeypatch.setattr(combining, "PRODUCT_VALUES", 24)
    store = make_store(tmp_path / "store")
    weights = torch.randn(3, len(store.snapshots))
    expected = combined(store, lambda _: weights)
    torch.set_num_threads(threads)
    sums = combined(store, lambda _: weights)
    assert all(torch.equal(sums[name], values) for name, values in expected.items())

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        combine([store.path(s) for s in store.snapshots], store.parameters, lambda _: weights, fail)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk_values", "product_values"),
    [(1, 1), (8, 8), (40, 40), (40, 24), (7 * 8, 1), (7 * 8, 999), (2**23, 2**20)],
)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("out_dtype", ROUNDING, ids=str)
def test_averages_in_files_and_in_memory_are_the_weighted_sums(
    tmp_path, monkeypatch, chunk_values, product_values, dtype, out_dtype
):
    """With chunks of one value, of some values (which divide a tensor evenly or not) and of all, and
    with products of parts of a chunk.
    """
    monkeypatch.setattr(combining, "CHUNK_VALUES", chunk_values)
    monkeypatch.setattr(combining, "PRODUCT_VALUES", product_values)
    store, lengths = make_store(tmp_path / "store", dtype), (0.03, 0.08, 0.15)
    targets = {tmp_path / f"{s}.safetensors": Target(s) for s in lengths}
    reconstructions = reconstruct_files(store, targets, out_dtype)
    in_memory = list(reconstruct(store, lengths))
    assert reconstructions == [average for average, _ in in_memory]
    assert [average.sigma_rel for average in reconstructions] == list(lengths)
    for path, (average, tensors) in zip(targets, in_memory, strict=True):
        stored = load_file(path)
        assert set(stored) == set(tensors) == {*SHAPES, "freqs", "count"}
        for name, shape in SHAPES.items():
            expected = expected_sum(store, name, average.sigma_rel)
            assert stored[name].dtype == out_dtype
            assert tensors[name].dtype == torch.float32
            assert stored[name].shape == tensors[name].shape == shape
            np.testing.assert_allclose(tensors[name].numpy(), expected, rtol=1e-5, atol=2e-5)
            assert torch.equal(stored[name], tensors[name].to(out_dtype))
            np.testing.assert_allclose(
                stored[name].double().numpy(), expected, rtol=ROUNDING[out_dtype], atol=2e-5
            )


def test_buffers_are_copied_whole_and_integers_stay_integers(tmp_path):
    store = make_store(tmp_path / "store")
    targets = {tmp_path / "a.safetensors": Target(0.08), tmp_path / "b.safetensors": Target(0.2)}
    reconstruct_files(store, targets, torch.float16)
    for path in targets:
        tensors = load_file(path)
        assert tensors["freqs"].tolist() == [100.0] * 4
        assert tensors["count"].tolist() == [400, 7]
        assert tensors["count"].dtype == torch.int64


def test_averages_of_earlier_times_use_only_the_snapshots_until_then(tmp_path):
    """Sums, buffers and description, in one pass for all targets or for each target alone."""
    store = make_store(tmp_path / "store")
    targets = {"x": Target(0.08, 200), "y": Target(0.08, 400), "z": Target(0.15, 350)}
    paths = {tmp_path / f"{name}.safetensors": target for name, target in targets.items()}
    reconstructions = reconstruct_files(store, paths, torch.float32)
    for (path, target), average in zip(paths.items(), reconstructions, strict=True):
        alone = tmp_path / "alone.safetensors"
        assert reconstruct_files(store, {alone: target}, torch.float32) == [average]
        assert average.nimg == target.nimg
        assert average.snapshots == 2 * (target.nimg // 100)
        tensors, expected = load_file(path), load_file(alone)
        for name in expected:
            torch.testing.assert_close(
                tensors[name], expected[name], rtol=1e-6, atol=1e-6, msg=name
            )
        z = expected_sum(store, "z", target.sigma_rel, target.nimg)
        np.testing.assert_allclose(tensors["z"].numpy(), z, rtol=1e-5, atol=2e-5)


def test_lengths_of_single_tensors_change_only_those_tensors(tmp_path):
    store = make_store(tmp_path / "store")
    paths = [tmp_path / "uniform.safetensors", tmp_path / "mixed.safetensors"]
    lengths = {"a.weight": 0.2, "gain": 0.03}
    targets = [Target(0.08), Target(0.08, tensor_sigma_rels=lengths)]
    averages = reconstruct_files(store, dict(zip(paths, targets, strict=True)), torch.float32)
    uniform, mixed = map(load_file, paths)
    for name in uniform:
        assert torch.equal(uniform[name], mixed[name]) == (name not in lengths)
    for name, length in lengths.items():
        expected = expected_sum(store, name, length)
        np.testing.assert_allclose(mixed[name].numpy(), expected, rtol=1e-5, atol=2e-5)
    errors = {a.sigma_rel: a.error for a, _ in reconstruct(store, [0.08, 0.2, 0.03])}
    assert averages[0].error == pytest.approx(errors[0.08])
    assert averages[1].error == pytest.approx(max(errors.values()))
    assert averages[1].sigma_rel == 0.08


@pytest.mark.parametrize("chunk_values", [24, 2**21])
def test_each_byte_is_read_exactly_once_for_any_number_of_sums(tmp_path, monkeypatch, chunk_values):
    monkeypatch.setattr(combining, "CHUNK_VALUES", chunk_values)
    store, reads, lock = make_store(tmp_path / "store"), Counter(), threading.Lock()
    preadv = os.preadv

    def counting_preadv(descriptor, buffers, position):
        count = preadv(descriptor, buffers, position)
        file = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        with lock:
            reads.update((file, at) for at in range(position, position + count))
        return count

    monkeypatch.setattr(os, "preadv", counting_preadv)
    weights = torch.ones(5, len(store.snapshots))
    combined(store, lambda _: weights)
    values = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert set(reads.values()) == {1}
    assert Counter(file for file, _ in reads) == {s.file: 4 * values for s in store.snapshots}


@pytest.mark.parametrize("chunk_values", [1, 100, 2**22])
def test_each_sum_uses_its_row_of_weights(tmp_path, monkeypatch, chunk_values):
    monkeypatch.setattr(combining, "CHUNK_VALUES", chunk_values)
    store = make_store(tmp_path / "store")
    weights = torch.randn(3, len(store.snapshots))
    rows = {name: weights * k for k, name in enumerate(store.parameters, 1)}
    tensors = combined(store, rows.__getitem__)
    assert set(tensors) == set(store.parameters) - {"empty"}
    for name, sums in tensors.items():
        files = [load_file(store.path(s))[name].double().numpy().ravel() for s in store.snapshots]
        expected = rows[name].double().numpy() @ np.stack(files)
        np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("snapshots", [1, 2, 30])
@pytest.mark.parametrize("sums", [1, 40])
def test_no_allocation_is_larger_than_a_chunk(tmp_path, monkeypatch, snapshots, sums):
    """8 bytes per value, for any number of files and sums, and tensors of any size."""
    monkeypatch.setattr(combining, "CHUNK_VALUES", 600)
    paths, sizes, empty = [], [], torch.empty
    for k in range(snapshots):
        paths.append(tmp_path / f"{k}.safetensors")
        save_file({"x": torch.ones(100, 50), "y": torch.ones(7)}, paths[-1])

    def recording_empty(*size, **options):
        sizes.append(empty(*size, **options).nbytes)
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", recording_empty)
    weights, counts = torch.ones(sums, snapshots), []
    combine(
        paths,
        ["x", "y"],
        lambda _: weights,
        lambda name, begin, sums: counts.append(sums.shape[1]),
    )
    assert sum(counts) == 5007
    assert 0 < max(sizes) <= 600 * 8
    assert len(sizes) <= 3 * torch.get_num_threads()


def test_values_outside_of_float16_are_refused_and_leave_no_file(tmp_path):
    folder, out = tmp_path / "store", tmp_path / "out"
    for nimg in (100, 200):
        for length in LENGTHS:
            tensors = {"fits": torch.ones(5), "large": torch.full((2,), 7e4)}
            write_snapshot(folder, Snapshot.power(nimg, length), tensors, [], torch.float32)
    store = SnapshotStore(folder)
    targets = {out / "a.safetensors": Target(0.08), out / "b.safetensors": Target(0.1)}
    with pytest.raises(UserError, match=r"tensor large.*float16"):
        reconstruct_files(store, targets, torch.float16)
    assert not list(out.iterdir())
    reconstruct_files(store, targets, torch.bfloat16)
    assert {path.name for path in out.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_refused_sum_leaves_the_existing_file(tmp_path):
    store = make_store(tmp_path / "store")
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"before")
    diverged = {"a.weight": torch.full(SHAPES["a.weight"], torch.nan)}
    last = store.path(store.snapshots[-1])
    save_file({**load_file(last), **diverged}, last)
    with pytest.raises(UserError, match=r"a\.weight"):
        reconstruct_files(store, {path: Target(0.08)}, torch.float32)
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.safetensors", "store"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"z": torch.ones(3, 2, 5)}, r"\[3, 2, 5\].*\[3, 5, 2\]"),
        ({"z": torch.ones(3, 5, 2).half()}, "float16.*float32"),
        ({"z": None}, "missing"),
    ],
)
@pytest.mark.parametrize("which", [0, 3, 7])
def test_snapshots_of_other_networks_are_refused_by_tensor(tmp_path, change, difference, which):
    """Also if the first or the last differs from all others."""
    store = make_store(tmp_path / "store")
    path = store.path(store.snapshots[which])
    changed = {name: t for name, t in {**load_file(path), **change}.items() if t is not None}
    save_file(changed, path)
    with pytest.raises(UserError, match=r"\.safetensors: tensor z") as refused:
        reconstruct_files(store, {tmp_path / "x.safetensors": Target(0.08)}, torch.float32)
    if which == 3:
        assert path.name in str(refused.value)
        refused.match(difference)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_snapshot_that_is_not_finite_is_named(tmp_path, value):
    """Whatever its weight in the sum, and whether the sums are written or kept in memory."""
    store = make_store(tmp_path / "store")
    damaged = store.path(store.snapshots[3])
    tensors = load_file(damaged)
    tensors["a.weight"].view(-1)[0] = value
    save_file(tensors, damaged)
    named = rf"{store.folder}: tensor a\.weight: .*{damaged.name}.*diverged"
    with pytest.raises(NotFiniteError, match=named):
        reconstruct_files(store, {tmp_path / "x.safetensors": Target(0.08)}, torch.float32)
    with pytest.raises(NotFiniteError, match=named):
        list(reconstruct(store, [0.08]))


def test_a_sum_has_the_same_bits_whichever_others_are_made_with_it(tmp_path, monkeypatch):
    """Alone and among 40, of a tensor of one value and of one whose last chunk is of one value."""
    monkeypatch.setattr("edm2.ema.combine.PRODUCT_VALUES", 40 * 16)
    shapes = {"scalar": (), "few": (3,), "some": (11,), "many": (1001,)}
    generator = torch.Generator().manual_seed(0)
    paths = [tmp_path / f"{k}.safetensors" for k in range(24)]
    for path in paths:
        save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, path)
    weights = torch.randn(40, len(paths), generator=generator)

    def sums(rows):
        made = {name: torch.empty(len(rows), shape.numel()) for name, shape in sizes.items()}
        combine(
            paths,
            list(shapes),
            lambda name: weights[rows],
            lambda name, begin, values: made[name][:, begin : begin + values.shape[1]].copy_(
                values
            ),
        )
        return made

    sizes = {name: torch.Size(shape) for name, shape in shapes.items()}
    together = sums(range(40))
    for rows in ([0], [39], [7, 3], [5, 6, 38]):
        for name, made in sums(rows).items():
            assert torch.equal(made, together[name][rows])
