"""Averages of other programs in a snapshot store."""

import os

import pytest
import torch
from safetensors.torch import load_file

from edm2.ema import Snapshot, SnapshotStore, reconstruct, solve_weights, write_snapshot
from edm2.ema.importing import Selection, import_snapshots
from edm2.params import UserError
from edm2.runtime.manifest import read_manifest, read_verified

TIMES, LENGTHS = (100, 200, 300), (0.05, 0.10)


def network():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    return {name: torch.randn_like(t) if t.dim() else t for name, t in model.state_dict().items()}


@pytest.fixture
def sources(tmp_path):
    """Checkpoints of two averages at three times."""
    torch.manual_seed(0)
    snapshots = [Snapshot.power(nimg, length) for nimg in TIMES for length in LENGTHS]
    files = {}
    for snapshot in snapshots:
        path = tmp_path / f"ckpt-{snapshot.nimg}-{snapshot.sigma_rel}.pt"
        torch.save({"ema": network(), "step": snapshot.nimg}, path)
        files[path] = snapshot
    return files


@pytest.fixture
def run(tmp_path, sources):
    def call(files=None, selection=None, **options):
        selection = selection or Selection()
        files = sources if files is None else files
        return import_snapshots(
            files, tmp_path / "store", selection.read, repr(selection), **options
        )

    return call


def change(path, **tensors):
    content = torch.load(path)
    content["ema"] |= tensors
    content["ema"] = {name: t for name, t in content["ema"].items() if t is not None}
    torch.save(content, path)


def refused(run, *parts, files=None, selection=None, **options):
    with pytest.raises(UserError) as error:
        run(files, selection, **options)
    for part in parts:
        assert str(part) in str(error.value)


def test_a_store_gives_the_sum_of_the_checkpoints(run, sources):
    """With names and dtypes of the checkpoints; statistics and counts are those of the last."""
    store = run()
    assert store.snapshots == sorted(sources.values())
    read_verified(store.folder)
    weights = solve_weights(
        [s.nimg for s in sources.values()], [s.sigma_rel for s in sources.values()], [300], [0.15]
    )[:, 0]
    networks = [torch.load(path)["ema"] for path in sources]
    ((_, tensors),) = reconstruct(store, [0.15])
    assert tensors.keys() == networks[0].keys()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        expected = sum(w * n[name].double() for w, n in zip(weights, networks, strict=True))
        torch.testing.assert_close(tensors[name].double(), expected, rtol=1e-5, atol=1e-5)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(tensors[name], networks[-1][name])
    torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).load_state_dict(tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept_or_chosen(run, sources, dtype):
    for path in sources:
        change(path, **{"0.weight": torch.ones(4, 3, dtype=dtype)})
    store = run()
    stored = load_file(store.path(store.snapshots[0]))
    assert (stored["0.weight"].dtype, stored["0.bias"].dtype) == (dtype, torch.float32)
    store = run(dtype=torch.bfloat16, force=True)
    stored = load_file(store.path(store.snapshots[0]))
    assert {stored[f"0.{name}"].dtype for name in ("weight", "bias")} == {torch.bfloat16}
    assert stored["1.running_mean"].dtype == torch.float32
    assert stored["1.num_batches_tracked"].dtype == torch.int64


def test_tensors_are_copied_or_dropped_by_their_names(run, sources):
    store = run(selection=Selection(copied=("*.bias",), dropped=("1.running_*",)))
    assert store.parameters == ["0.weight", "1.weight"]
    assert set(store.buffers) == {"0.bias", "1.bias", "1.num_batches_tracked"}
    refused(run, "nothing to average", selection=Selection(copied=("*",)), force=True)


def test_tied_weights_are_under_each_of_their_names(run, sources):
    for path in sources:
        weight = torch.randn(2, 2)
        change(path, tied0=weight, tied1=weight)
    ((_, tensors),) = reconstruct(run(), [0.1])
    assert torch.equal(tensors["tied0"], tensors["tied1"])


def test_an_interrupted_import_goes_on(run, sources, tmp_path):
    paths = list(sources)
    good = paths[3].read_bytes()
    change(paths[3], **{"0.bias": torch.tensor([0, 1, torch.inf, 2])})
    refused(run, paths[3], "tensor 0.bias", "finite")
    store = tmp_path / "store"
    before = {path: path.stat().st_mtime_ns for path in store.glob("ema-*")}
    assert len(before) == 3
    (store / ".ema-x.safetensors.1.partial").touch()  # of an unknown process
    paths[3].write_bytes(good)
    run()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_manifest(store)["files"]) == len(sources)


def test_a_file_that_changes_while_it_is_read_makes_no_snapshot(
    run, sources, tmp_path, monkeypatch
):
    last, read = max(sources, key=sources.__getitem__), Selection.read

    def read_and_change(self, path):
        tensors = read(self, path)
        if path == last:
            os.utime(path)
        return tensors

    with monkeypatch.context() as patch:
        patch.setattr(Selection, "read", read_and_change)
        with pytest.raises(UserError, match=rf"{last.name}: was changed"):
            run(compare_first=False)
    assert len(list((tmp_path / "store").glob("ema-*"))) == len(sources) - 1
    run()
    assert len(list((tmp_path / "store").glob("ema-*"))) == len(sources)


def test_a_later_import_adds_what_is_new(run, sources):
    paths = list(sources)
    run({path: sources[path] for path in paths[:4]})
    store = run()
    assert store.snapshots == sorted(sources.values())
    read_verified(store.folder)


def test_other_files_replace_snapshots_only_with_force(run, sources):
    store = run()
    path, *_ = sources
    os.utime(path, ns=(1, 1))
    change(path, **{"0.bias": torch.zeros(4)})
    refused(run, store.path(sources[path]), path, "--force")
    refused(run, "--force", selection=Selection(dropped=("1.*",)))
    run(force=True)
    assert not load_file(store.path(sources[path]))["0.bias"].any()
    read_verified(store.folder)


def test_all_files_of_other_networks_are_named_before_anything_is_written(run, sources, tmp_path):
    paths = list(sources)
    change(paths[1], **{"0.bias": torch.zeros(5)})
    change(paths[2], **{"0.weight": None})
    change(paths[4], **{"0.weight": torch.zeros(4, 3).half(), "extra": torch.ones(1)})
    refused(
        run,
        f"{paths[1]}: tensor 0.bias: torch.float32 of shape [5], expected torch.float32 of shape [4]",
        f"{paths[2]}: tensor 0.weight: missing",
        f"{paths[4]}: tensor 0.weight: torch.float16",
    )
    assert not list(tmp_path.glob("store/*"))
    change(paths[0], extra=torch.ones(1))
    refused(run, f"{paths[3]}: tensor extra: missing")


def test_another_network_is_not_added_to_a_store(run, sources):
    first, *others = sources
    run({first: sources[first]})
    for path in others:
        change(path, **{"0.bias": torch.zeros(5)})
    refused(run, others[0], "tensor 0.bias", sources[first].file)


def test_a_training_is_not_added_to(run, tmp_path):
    write_snapshot(tmp_path / "store", Snapshot.power(50, 0.1), {"w": torch.ones(2)}, [])
    refused(run, "by a training", "--out")


def test_the_same_average_twice_is_refused(run, sources):
    first, second, *_ = sources
    refused(run, first, second, files={first: sources[first], second: sources[first]})


def test_averages_of_time_0_are_named_and_left_out(run, sources, capsys):
    first, second, *_ = sources
    start = Snapshot.power(0, 0.1)
    store = run({first: start, second: sources[second]})
    assert store.snapshots == [sources[second]]
    assert f"{first}: skipped" in capsys.readouterr().err
    refused(run, "time 0", files={first: start})


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, dtype=torch.uint16), "uint16"),
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_tensors_that_cannot_be_stored_are_named(run, sources, tensor, part):
    for path in sources:
        change(path, odd=tensor)
    refused(run, "tensor odd", part, "--drop")
    run(selection=Selection(dropped=("odd",)))
    if part == "float8":
        assert "odd" in run(dtype=torch.float16, force=True).parameters


def test_counts_in_16_bits_are_whole_numbers_again_or_refused(run, sources):
    for path in sources:
        change(path, **{"1.num_batches_tracked": torch.tensor(300.0).half()})
    store = run()
    assert load_file(store.path(store.snapshots[0]))["1.num_batches_tracked"] == torch.tensor(300)
    change(path, **{"1.num_batches_tracked": torch.tensor(70_000.0).half()})
    refused(run, path, "1.num_batches_tracked", "--drop", force=True)


def test_values_out_of_the_range_of_the_chosen_dtype_are_named(run, sources):
    change(list(sources)[2], **{"0.bias": torch.full((4,), 1e6)})
    refused(run, list(sources)[2], "tensor 0.bias", "float32", dtype=torch.float16)
    assert len(SnapshotStore(run(force=True).folder).snapshots) == 6
