"""`python -m edm2.ema` on a folder of snapshots."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, TraditionalEMA, reconstruct, write_snapshot
from edm2.ema.__main__ import main

TIMES, LENGTHS = range(100, 1001, 100), (0.05, 0.10)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    for nimg in TIMES:
        for length in LENGTHS:
            tensors = {"w": torch.randn(4, 3), "freqs": torch.ones(2)}
            write_snapshot(tmp_path / "store", Snapshot.power(nimg, length), tensors, ["freqs"])
    return tmp_path / "store"


def run(capsys, *arguments):
    """Exit code, standard output and errors."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def made(folder):
    return sorted(name for name in files(folder) if name.endswith(".safetensors"))


def test_list_names_time_length_and_file_of_every_snapshot(folder, capsys):
    code, out, err = run(capsys, "list", folder)
    assert (code, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    expected = [
        [str(t), f"{s:g}", "power", Snapshot.power(t, s).file] for t in TIMES for s in LENGTHS
    ]
    assert rows == expected
    assert len(out.splitlines()[0].split("\t")) == 4


def test_list_says_which_averages_are_traditional(tmp_path, capsys):
    tensors = {"w": torch.ones(2)}
    ema = TraditionalEMA(tensors, 64, 0.1)
    for snapshot, average in ema.snapshots(800).items():
        write_snapshot(tmp_path, snapshot, average, [])
    code, out, _ = run(capsys, "list", tmp_path)
    assert code == 0
    assert out.splitlines()[1].split("\t")[::2] == ["800", "traditional"]


def test_verify_reads_everything(folder, capsys):
    code, out, err = run(capsys, "verify", folder)
    assert (code, err) == (0, "")
    assert "20 snapshots up to 1000 images" in out


def test_verify_names_what_is_not_finite(folder, capsys):
    snapshot = SnapshotStore(folder).snapshots[3]
    tensors = {"w": torch.full((4, 3), torch.nan), "freqs": torch.ones(2)}
    facts = {
        "nimg": snapshot.nimg,
        "sigma_rel": snapshot.sigma_rel,
        "halflife_nimg": None,
        "rampup": None,
        "buffers": ["freqs"],
    }
    save_file(tensors, folder / snapshot.file, {"snapshot": json.dumps(facts)})
    code, out, err = run(capsys, "verify", folder)
    assert (code, out) == (2, "")
    assert err.startswith("verify: ")
    assert f"{snapshot.file}: tensor w" in err


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_store_that_is_none_is_an_error_of_the_input(tmp_path, capsys, command):
    for store in (tmp_path, tmp_path / "nowhere"):
        code, out, err = run(capsys, command, store)
        assert (code, out) == (2, "")
        assert "holds no snapshots" in err


@pytest.mark.parametrize(
    ("asked", "lengths"),
    [
        ("0.07", [0.07]),
        ("0.05,0.10", [0.05, 0.1]),
        ("0.06...0.12 by 0.02", [0.06, 0.08, 0.1, 0.12]),
        ("0.06…0.12 by 0.03", [0.06, 0.09, 0.12]),
    ],
)
def test_reconstruct_writes_a_file_for_each_length(folder, tmp_path, capsys, asked, lengths):
    out_folder = tmp_path / "out"
    code, out, err = run(capsys, "reconstruct", folder, "--std", asked, "--out", out_folder)
    assert (code, err) == (0, "")
    names = [f"000000001000-sigma_rel-{length!r}.safetensors" for length in lengths]
    assert made(out_folder) == sorted(names)
    described = json.loads((out_folder / "averages.json").read_text())
    assert set(described) == set(names)
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    for name, row, (spec, tensors) in zip(
        names, rows, reconstruct(SnapshotStore(folder), lengths), strict=True
    ):
        found = load_file(out_folder / name)
        assert found["w"].dtype == torch.float16
        assert torch.equal(found["w"], tensors["w"].half())
        assert found["freqs"].tolist() == [1, 1]
        assert described[name]["error"] == pytest.approx(spec.error)
        assert described[name]["weight_sum"] == pytest.approx(spec.weight_sum)
        assert (described[name]["sigma_rel"], described[name]["nimg"]) == (spec.sigma_rel, 1000)
        assert row == [
            f"{spec.sigma_rel:g}",
            "1000",
            f"{spec.error:.3g}",
            f"{spec.weight_sum:.4f}",
            "20",
            str(out_folder / name),
        ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_reconstruct_at_another_time_and_in_another_dtype(folder, tmp_path, capsys, dtype):
    code, _, _ = run(
        capsys,
        "reconstruct",
        folder,
        "--std",
        "0.1",
        "--out",
        tmp_path / "out",
        "--nimg",
        700,
        "--dtype",
        dtype,
    )
    assert code == 0
    assert made(tmp_path / "out") == ["000000000700-sigma_rel-0.1.safetensors"]
    found = load_file(tmp_path / "out" / "000000000700-sigma_rel-0.1.safetensors")["w"]
    assert found.dtype == getattr(torch, dtype)
    stored = load_file(folder / Snapshot.power(700, 0.10).file)["w"]
    torch.testing.assert_close(found.float(), stored.float(), rtol=2**-7, atol=1e-5)


def test_an_average_that_is_not_to_be_trusted_is_written_but_told(folder, tmp_path, capsys):
    """0.01 of the training is far less than what lies between two snapshots."""
    code, out, err = run(
        capsys, "reconstruct", folder, "--std", "0.01,0.08", "--out", tmp_path / "out"
    )
    assert code == 1
    assert err.startswith("warning: ")
    assert "0.01" in err
    assert "0.08" not in err
    assert len(out.splitlines()) == 3
    assert len(made(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--std", "0.3"], "0.3: expected within"),
        (["--std", "0.1,0"], "0.0: expected within"),
        (["--std", "nan"], "expected within"),
        (["--std", "0.1", "--nimg", "99"], "between 100 and 1000"),
        (["--std", "0.1", "--nimg", "1001"], "between 100 and 1000"),
    ],
)
def test_impossible_wishes_are_errors_of_the_input(folder, tmp_path, capsys, arguments, complaint):
    out_folder = tmp_path / "out"
    code, out, err = run(capsys, "reconstruct", folder, "--out", out_folder, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("reconstruct: ")
    assert complaint in err
    assert files(out_folder) == {}


@pytest.mark.parametrize(
    "asked", ["", "short", "0.1;0.2", "0.2...0.1 by 0.01", "0.1 by 0.1", "0.1,"]
)
def test_what_are_no_lengths_are_errors_of_the_input(folder, tmp_path, capsys, asked):
    with pytest.raises(SystemExit) as left:
        main(["reconstruct", str(folder), "--std", asked, "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert "--std" in capsys.readouterr().err


def test_nothing_is_overwritten_unless_told(folder, tmp_path, capsys):
    out_folder = tmp_path / "out"
    wish = ["reconstruct", folder, "--out", out_folder]
    assert run(capsys, *wish, "--std", "0.08")[0] == 0
    before = files(out_folder)
    code, out, err = run(capsys, *wish, "--std", "0.1,0.08", "--dtype", "float32")
    assert (code, out) == (2, "")
    assert "sigma_rel-0.08.safetensors: exists already" in err
    assert "--force" in err
    assert files(out_folder) == before
    code, _, _ = run(capsys, *wish, "--std", "0.1,0.08", "--dtype", "float32", "--force")
    assert code == 0
    assert len(made(out_folder)) == 2
    for name in made(out_folder):
        assert load_file(out_folder / name)["w"].dtype == torch.float32


def test_averages_made_later_leave_the_description_of_those_made_before(folder, tmp_path, capsys):
    out_folder = tmp_path / "out"
    wish = ["reconstruct", folder, "--out", out_folder, "--std"]
    run(capsys, *wish, "0.08")
    before = json.loads((out_folder / "averages.json").read_text())
    run(capsys, *wish, "0.1")
    described = json.loads((out_folder / "averages.json").read_text())
    assert {name: described.get(name) for name in before} == before
    assert sorted(described) == made(out_folder)


def test_as_a_program(folder, tmp_path):
    """Tables on standard output, complaints on standard error, exit status by outcome."""

    def program(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "edm2.ema", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    wish = ["reconstruct", folder, "--std", "0.01", "--out", tmp_path / "out"]
    warned, refused = program(*wish), program(*wish)
    assert (warned.returncode, refused.returncode) == (1, 2)
    assert "warning" in warned.stderr
    assert "warning" not in warned.stdout
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert program("list").returncode == 2
