"""The benchmarks run, at tiny sizes; what they measure is for people to look at."""

import importlib
import subprocess
import sys

import pytest
from tiny import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A script of the folder as a module, told some words on its command line."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def told(name, *words):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        return importlib.import_module(name)

    return told


def test_steps_of_the_denoiser(benchmark):
    script = benchmark(
        "train_step",
        "--channels",
        "8",
        "--resolution",
        "8",
        "--batch",
        "2",
        "--precision",
        "bf16",
        "--warmup",
        "1",
        "--steps",
        "1",
        "--channels-last",
    )
    found = script.measure(script.arguments().parse_args())
    assert found["images/s"] == pytest.approx(2 / found["s/step"])


def test_reconstruction_and_what_it_is_held_against(benchmark, tmp_path):
    script = benchmark("reconstruct")
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    store.mkdir()
    scratch.mkdir()
    script.make_store(store, 6, 3000)
    for way in script.WAYS.values():
        assert way(store, 3, scratch) > 0
    assert len(list(scratch.glob("*.safetensors"))) == 3


def test_frechet_distance_and_the_square_root(benchmark, capsys, monkeypatch):
    for library in ("OMP", "OPENBLAS", "MKL"):  # the script sets them; they are put back
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    benchmark("frechet", "--dims", "12", "--images", "1000", "--threads", "1").main()
    values = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[3:5]]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-6)


def test_a_sweep_of_the_project(finished):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sweep.py"), "--networks", "1"],
        cwd=finished,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:-1]]
    assert [row[0] for row in rows] == [
        "reconstruct",
        "sample",
        "decode",
        "features",
        "moments",
        "measures",
    ]
    assert sum(float(row[2].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)


def test_reading_the_digits(finished):
    """Those of the tiny project are no digits, which the exit status tells."""
    command = [sys.executable, str(FOLDER / "read_digits.py"), "--min-accuracy", "0.95"]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "generated digits are read as the class asked for" in done.stdout
