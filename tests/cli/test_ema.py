"""`edm2 ema` on a folder of snapshots."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, TraditionalEMA, reconstruct, write_snapshot
from edm2.ema.index import index_training, write_index
from edm2.runtime.checked_json import read_checked
from edm2.runtime.manifest import read_manifest, write_manifest
from edm2.runtime.verification import damaged_files

TIMES, LENGTHS = range(100, 1001, 100), (0.05, 0.10)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    for nimg in TIMES:
        for length in LENGTHS:
            tensors = {"w": torch.randn(4, 3), "freqs": torch.ones(2)}
            write_snapshot(tmp_path / "store", Snapshot.power(nimg, length), tensors, ["freqs"])
    return tmp_path / "store"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def averages_in(folder):
    return sorted(name for name in contents(folder) if name.endswith(".safetensors"))


def rows(out):
    """The cells of the printed table, without its heading."""
    return [line.split("\t") for line in out.splitlines()[1:]]


def test_list_prints_time_length_and_file_of_every_snapshot(folder, run):
    result = run("ema", "list", folder)
    assert (result.status, result.err) == (0, "")
    expected = [
        [str(t), f"{s:g}", "power", Snapshot.power(t, s).file] for t in TIMES for s in LENGTHS
    ]
    assert rows(result.out) == expected
    assert len(result.out.splitlines()[0].split("\t")) == 4


def test_list_prints_which_averages_are_traditional(tmp_path, run):
    ema = TraditionalEMA({"w": torch.ones(2)}, 64, 0.1)
    for snapshot, average in ema.snapshots(800).items():
        write_snapshot(tmp_path, snapshot, average, [])
    result = run("ema", "list", tmp_path)
    assert result.status == 0
    assert rows(result.out)[0][::2] == ["800", "traditional"]


def test_verify_accepts_an_undamaged_store(folder, run):
    result = run("ema", "verify", folder)
    assert (result.status, result.err) == (0, "")
    assert "20 snapshots up to 1000 images" in result.out


def test_verify_names_the_file_and_tensor_of_values_that_are_not_finite(folder, run):
    snapshot = SnapshotStore(folder).snapshots[3]
    tensors = {"w": torch.full((4, 3), torch.nan).half(), "freqs": torch.ones(2).half()}
    metadata = {
        "nimg": snapshot.nimg,
        "sigma_rel": snapshot.sigma_rel,
        "halflife_nimg": None,
        "rampup": None,
        "buffers": ["freqs"],
    }
    save_file(tensors, folder / snapshot.file, {"snapshot": json.dumps(metadata)})
    result = run("ema", "verify", folder)
    assert (result.status, result.out) == (2, "")
    assert f"{snapshot.file}: tensor w" in result.err


def test_verify_compares_checksums_where_there_is_a_manifest(folder, run):
    write_manifest(folder)
    assert run("ema", "verify", folder).status == 0
    path = folder / Snapshot.power(300, 0.10).file
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # the last bit of a weight: still finite, still of the same shape
    path.write_bytes(damaged)
    result = run("ema", "verify", folder)
    assert (result.status, result.out) == (2, "")
    assert path.name in result.err
    assert "SHA-256" in result.err


@pytest.fixture
def indexed(folder):
    """A store that refers to the snapshots of a finished training, and that training's folder."""
    write_index(SnapshotStore(folder))
    index_training(SnapshotStore(folder), folder.parent / "index", "../store", 1000)
    return folder.parent / "index", folder


def test_commands_follow_an_index_to_its_training(indexed, tmp_path, run):
    index, training = indexed
    assert run("ema", "list", index).out == run("ema", "list", training).out
    assert "20 snapshots" in run("ema", "verify", index).out
    for store in (index, training):
        out = tmp_path / "out" / store.name
        assert run("ema", "reconstruct", store, "--lengths", "0.07", "--out", out).status == 0
    (name,) = averages_in(out)
    from_index, from_training = (
        (tmp_path / "out" / store.name / name).read_bytes() for store in indexed
    )
    assert from_index == from_training


def test_verify_reads_the_training_that_an_index_refers_to(indexed, run):
    index, training = indexed
    path = training / Snapshot.power(300, 0.10).file
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert run("ema", "list", index).status == 0  # sizes and headers have not changed
    result = run("ema", "verify", index)
    assert (result.status, result.out) == (2, "")
    assert str(path) in result.err


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_folder_without_snapshots_is_refused(tmp_path, run, command):
    for store, problem in ((tmp_path, "holds no"), (tmp_path / "nowhere", "no such folder")):
        result = run("ema", command, store)
        assert (result.status, result.out) == (2, "")
        assert f"{store}: {problem}" in result.err


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("0.07", [0.07]),
        ("0.05,0.10", [0.05, 0.1]),
        ("0.06...0.12 by 0.02", [0.06, 0.08, 0.1, 0.12]),
        ("0.06…0.12 by 0.03", [0.06, 0.09, 0.12]),
    ],
)
def test_reconstruct_writes_a_file_for_each_length(folder, tmp_path, run, text, lengths):
    out = tmp_path / "out"
    result = run("ema", "reconstruct", folder, "--lengths", text, "--out", out)
    assert (result.status, result.err) == (0, "")
    names = [f"000000001000-ema_length-{length!r}.safetensors" for length in lengths]
    assert averages_in(out) == sorted(names)
    descriptions = read_checked(out / "averages.json", "", "", "averages.json")
    assert set(descriptions) == set(names)
    for name, row, (average, tensors) in zip(
        names, rows(result.out), reconstruct(SnapshotStore(folder), lengths), strict=True
    ):
        written = load_file(out / name)
        assert written["w"].dtype == torch.float16
        assert torch.equal(written["w"], tensors["w"].half())
        assert written["freqs"].tolist() == [1, 1]
        assert descriptions[name]["error"] == pytest.approx(average.error)
        assert descriptions[name]["weight_sum"] == pytest.approx(average.weight_sum)
        assert (descriptions[name]["sigma_rel"], descriptions[name]["nimg"]) == (
            average.sigma_rel,
            1000,
        )
        assert row == [
            f"{average.sigma_rel:g}",
            "1000",
            f"{average.error:.3g}",
            f"{average.weight_sum:.4f}",
            "20",
            str(out / name),
        ]


@pytest.mark.parametrize("normalize", [True, False])
def test_reconstruct_divides_weights_by_their_sum_if_asked_to(folder, tmp_path, run, normalize):
    options = ("--lengths", "0.15", "--out", tmp_path / "out", "--dtype", "float32")
    switch = "--normalize" if normalize else "--no-normalize"
    assert run("ema", "reconstruct", folder, *options, switch).status == 0
    (name,) = averages_in(tmp_path / "out")
    written = load_file(tmp_path / "out" / name)["w"]
    for value in (True, False):
        ((_, expected),) = reconstruct(SnapshotStore(folder), [0.15], normalize=value)
        assert torch.equal(written, expected["w"]) == (value == normalize)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_reconstruct_at_another_time_and_in_another_dtype(folder, tmp_path, run, dtype):
    out = tmp_path / "out"
    options = ("--lengths", "0.1", "--nimg", 700, "--dtype", dtype)
    assert run("ema", "reconstruct", folder, "--out", out, *options).status == 0
    assert averages_in(out) == ["000000000700-ema_length-0.1.safetensors"]
    written = load_file(out / "000000000700-ema_length-0.1.safetensors")["w"]
    assert written.dtype == getattr(torch, dtype)
    stored = load_file(folder / Snapshot.power(700, 0.10).file)["w"]
    torch.testing.assert_close(written.float(), stored.float(), rtol=2**-7, atol=1e-5)


def test_an_average_with_a_large_error_is_written_with_a_warning_and_status_1(
    folder, tmp_path, run
):
    """0.01 of the training is much shorter than the time between two snapshots."""
    out = tmp_path / "out"
    result = run("ema", "reconstruct", folder, "--lengths", "0.01,0.08", "--out", out)
    assert result.status == 1
    assert result.err.startswith("warning: ")
    assert "0.01" in result.err
    assert "0.08" not in result.err
    assert len(rows(result.out)) == 2
    assert len(averages_in(out)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "0.3"], "0.3"),
        (["--lengths", "0.1,0"], "0.0"),
        (["--lengths", "nan"], "nan"),
        (["--lengths", "0.1", "--nimg", "99"], "100 and 1000"),
        (["--lengths", "0.1", "--nimg", "1001"], "100 and 1000"),
    ],
)
def test_impossible_lengths_and_times_are_refused(folder, tmp_path, run, options, message):
    result = run("ema", "reconstruct", folder, "--out", tmp_path / "out", *options)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("value", ["short", "0.1;0.2", "0.2...0.1 by 0.01", "0.1 by 0.1", "0.1,"])
def test_text_that_is_not_a_list_of_lengths_is_refused(folder, tmp_path, run, value):
    out = tmp_path / "out"
    result = run("ema", "reconstruct", folder, "--lengths", value, "--out", out)
    assert (result.status, result.out) == (2, "")
    assert "--lengths" in result.err
    assert repr(value) in result.err
    assert not out.exists()


def test_files_are_replaced_only_with_force(folder, tmp_path, run):
    out = tmp_path / "out"
    command = ("ema", "reconstruct", folder, "--out", out)
    assert run(*command, "--lengths", "0.08").status == 0
    before = contents(out)
    both = ("--lengths", "0.1,0.08", "--dtype", "float32")
    result = run(*command, *both)
    assert (result.status, result.out) == (2, "")
    assert "ema_length-0.08.safetensors: already exists" in result.err
    assert "--force" in result.err
    assert contents(out) == before
    assert run(*command, *both, "--force").status == 0
    assert len(averages_in(out)) == 2
    for name in averages_in(out):
        assert load_file(out / name)["w"].dtype == torch.float32


def test_a_later_call_keeps_the_descriptions_of_earlier_averages(folder, tmp_path, run):
    out = tmp_path / "out"
    command = ("ema", "reconstruct", folder, "--out", out, "--lengths")
    run(*command, "0.08")
    before = read_checked(out / "averages.json", "", "", "averages.json")
    run(*command, "0.1")
    descriptions = read_checked(out / "averages.json", "", "", "averages.json")
    assert {name: descriptions.get(name) for name in before} == before
    assert sorted(descriptions) == averages_in(out)


def test_averages_are_listed_with_their_checksums(folder, tmp_path, run):
    """Those of earlier calls with the checksums of that time, replaced ones with new ones."""
    out = tmp_path / "out"
    command = ("ema", "reconstruct", folder, "--out", out, "--lengths")
    run(*command, "0.08")
    run(*command, "0.1")
    assert sorted(read_manifest(out)["files"]) == averages_in(out)
    assert damaged_files([out]) == []
    path = out / averages_in(out)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    run(*command, "0.09")
    (problem,) = damaged_files([out])
    assert path.name in problem
    run(*command, "0.08", "--force")
    assert damaged_files([out]) == []


@pytest.mark.parametrize("text", ["{", "3", '{"a": 3}'])
def test_a_damaged_description_is_reported_before_anything_is_written(folder, tmp_path, run, text):
    index = tmp_path / "out/averages.json"
    index.parent.mkdir()
    index.write_text(text)
    result = run("ema", "reconstruct", folder, "--out", index.parent, "--lengths", "0.08")
    assert (result.status, result.out) == (2, "")
    assert str(index) in result.err
    assert contents(index.parent) == {index.name: text.encode()}


@pytest.mark.slow
def test_the_program_prints_tables_to_stdout_and_messages_to_stderr(folder, tmp_path, program):
    command = ("ema", "reconstruct", "store", "--lengths", "0.01", "--out", "out")
    warned, refused = program(*command, cwd=tmp_path), program(*command, cwd=tmp_path)
    assert (warned.status, refused.status) == (1, 2)
    assert "warning" in warned.err
    assert "warning" not in warned.out
    assert refused.out == ""
    assert "Traceback" not in refused.err
    assert len(averages_in(tmp_path / "out")) == 1
    assert program("ema", "list", cwd=tmp_path).status == 2
