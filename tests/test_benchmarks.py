"""The benchmarks run at tiny sizes. Their timings are not tested."""

import importlib
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from network_rows import concatenated, network_rows
from tiny import ROOT

from edm2.data.normalization import Normalization
from edm2.data.shards import OpenShard
from edm2.diffusion import build_denoiser
from edm2.params import load
from edm2.params.seams import DETECTORS
from edm2.runtime import checkpoint_parts

pytestmark = pytest.mark.slow

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def script_with(monkeypatch):
    """Imports a script with a command line."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def import_script(name, arguments=""):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
        return importlib.import_module(name)

    return import_script


def test_train_step(script_with):
    script = script_with(
        "train_step",
        "--channels 8 --resolution 8 --batch 2 --precision bf16 --warmup 1 --steps 1 --channels-last",
    )
    result = script.measure(script.argument_parser().parse_args())
    assert result["images/s"] == pytest.approx(2 / result["s/step"])


def test_parallel(script_with):
    """On a single rank: values, gradients, two moments with their steps, and two averages."""
    script = script_with("parallel", "--channels 8 --resolution 8 --batch 2 --steps 1")
    row = script.measure(script.argument_parser().parse_args())
    denoiser = build_denoiser(channels=8, resolution=8)
    count, head = (
        sum(p.numel() for p in module.parameters()) for module in (denoiser, denoiser.head)
    )
    steps = len(list(denoiser.parameters()))
    assert row["state MiB"] * 2**20 == 4 * (6 * count - 2 * head + steps)
    assert row["kept MiB"] > 0


def test_vae_formats(script_with):
    """A wrong tensor would differ by about 1."""
    script = script_with("vae_formats", "--channels 4 --resolution 16")
    rows = script.measure("FLUX", 0.1, **vars(script.argument_parser().parse_args()))
    assert [row["difference"] for row in rows][:2] == ["ours, published", "ours, exported"]
    assert all(row[key] < 1e-4 for row in rows for key in ("mean", "std", "image"))
    assert rows[2]["image"] > 0


@pytest.mark.parametrize("part", ["sampler", "step"])
def test_speed(script_with, part):
    script = script_with("speed")
    size = {"channels": 8, "resolution": 8, "batch": 2}
    seconds = script.measure(SimpleNamespace(one=part, threads=1, repeats=2, **size))
    assert len(seconds) == 2
    assert all(wall > 0 and cpu > 0 for wall, cpu in seconds)


@pytest.mark.parametrize("name", ["hangs", "restarts"])
def test_options(script_with, name):
    """Of scripts whose smallest run takes as long as several launches."""
    with pytest.raises(SystemExit, match="0"):
        script_with(name, "--help").main()


@pytest.mark.parametrize("what", ["", "--latents"])
def test_ingest(script_with, capsys, what):
    script_with("ingest", f"--images 40 --resolution 8 --workers 1 2 {what}").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[-1] == "equal shards: True"


def test_calibration(script_with, tmp_path):
    """Four trainings of two configs, of which one is lower by 1 in all."""
    rng, paths = np.random.default_rng(0), []
    for config, level in (("A", 3.0), ("G", 2.0)):
        for seed in range(4):
            values = [level + v for v in rng.normal(0, 0.1, 6)]
            columns = {"config": config, "training_seed": seed}
            blocks = [
                network_rows(values[3 * k : 3 * k + 3], first_seed=k, **columns) for k in (0, 1)
            ]
            paths.append(tmp_path / f"{config}-{seed}.csv")
            concatenated(*blocks).to_csv(paths[-1], index=False)
    script = script_with("calibration")
    divisions = list(script.divisions(4, 2, 100))
    assert len(divisions) == 6  # three ways to make two pairs, each in two relative orders
    curves = script.read_curves(paths)
    (step,) = script.steps(curves).to_dict("records")
    assert step["step"] == "A → G"
    assert step["difference"] == pytest.approx(-1, abs=0.3)
    assert step["ratio"] > 0
    rates = script.calibration(curves, [2, 3], 5)
    assert rates["comparisons"].tolist() == [10] * 4  # there are too few trainings for groups of 3
    assert rates["intervals with 0, %"].between(50, 100).all()
    found = script.sources(curves)
    assert found["mean"].tolist() == pytest.approx([3, 2], abs=0.2)


def test_reconstruct(script_with, tmp_path):
    script = script_with("reconstruct")
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    store.mkdir()
    scratch.mkdir()
    script.make_store(store, 6, 3000)
    for method in script.METHODS.values():
        assert method(store, 3, scratch) > 0
    assert len(list(scratch.glob("*.safetensors"))) == 3


def test_loader(script_with, tmp_path, monkeypatch):
    monkeypatch.setattr(OpenShard, "_read", OpenShard._read)  # the script replaces it
    script = script_with("loader")
    script.write_latents(tmp_path, 40)
    args = SimpleNamespace(workers=0, batch=8, seconds=0.02, rate=4000)
    for reading in ("random", "blocks"):
        row = script.measure(tmp_path, args, reading, 0.1)
        assert row["latents/s"] > 0
        assert row["reading"] == reading


def test_frechet(script_with, capsys, monkeypatch):
    for library in ("OMP", "OPENBLAS", "MKL"):  # set by the script; restored after the test
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    script_with("frechet", "--dims 12 --images 1000 --threads 1").main()
    values = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[3:5]]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-6)


def test_measure(script_with, monkeypatch):
    """edm2 and torch-fidelity agree to rounding, where torch-fidelity computes in float64."""
    monkeypatch.setattr(DETECTORS, "_members", dict(DETECTORS._members))  # the script adds one
    table = script_with("measure").compare(150, "small").set_index("metric")
    assert len(table) == 5
    assert table["relative difference"].max() < 1e-6
    assert (table["edm2"] > 0).all()


def test_held_out(script_with, capsys):
    script_with("held_out", "--resolution 16 --images 2 --counts").main()
    scikit_image, edm2 = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert (scikit_image[0], edm2[0]) == ("scikit-image", "edm2")
    assert scikit_image[3] == edm2[3]
    assert float(scikit_image[4]) < 1e-12


def test_starts(script_with, tmp_path):
    """The bytes read at a start do not grow with the latents of a shard; those of all headers do."""
    script, read = script_with("starts"), {"index": [], "headers": []}
    for count in (100, 200):
        script.write_latents(tmp_path / str(count), count, [1, 2, 2])
        for way, values in read.items():
            values.append(script.measure(way, tmp_path / str(count))["start"]["MB read"])
    assert read["index"][1] == pytest.approx(read["index"][0], rel=0.01)
    assert read["headers"][1] > 1.8 * read["headers"][0]


def test_plan(script_with, tmp_path, monkeypatch):
    script = script_with("plan")
    project = tmp_path / "project"
    script.make_project(project, ROOT / "params.yaml")
    assert load(project / "params.yaml").runtime.threads == 1
    stages = [{"stage": "prepare", "seconds": 3.0}, {"stage": "fid@G-0", "seconds": 5.0}]
    answers = iter([json.dumps({"stages": stages}), "", ""])
    monkeypatch.setattr(script, "run", lambda *arguments: (4.0, next(answers)))
    table = script.compare(project, [], False)
    assert list(table["stage"]) == ["prepare", "fid@G-0", "total"]
    assert list(table["ratio"]) == [0.75, 1.25, 1.0]


def test_sweep(finished):
    process = subprocess.run(
        [sys.executable, str(FOLDER / "sweep.py"), "--networks", "1"],
        cwd=finished,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    rows = [line.split() for line in process.stdout.splitlines()[2:-1]]
    names = ["reconstruct", "sample", "decode", "features", "moments", "metrics"]
    assert [row[0] for row in rows] == names
    assert sum(float(row[2].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)


def test_evaluation(script_with, finished, monkeypatch, capsys):
    """In a project of its own. Instead of evaluating, launches write two items, or find them."""
    script = script_with("evaluation", f"--project {finished} --launches 1 2 --seed-blocks 2")
    started = []

    def start_launch(folder, config):
        assert load(folder / "params.yaml").evaluation.seed_blocks == 2
        assert (folder / "models/sweep/G-0/manifest.json").exists()
        started.append(folder)
        items = folder / ".state/fid-G-0/key/items"
        items.mkdir(parents=True, exist_ok=True)
        for name in ("a.json", "b.json", "a.png"):
            (items / name).touch()
        return SimpleNamespace(seconds=8.0 / len(set(started)), returncode=0)

    monkeypatch.setattr(script, "start_launch", start_launch)
    monkeypatch.setattr(script, "cpu_seconds", lambda launch: launch.seconds)
    script.main()
    assert [started.count(folder) for folder in dict.fromkeys(started)] == [2, 4]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [[*line[:2], line[-1]] for line in lines[2:]] == [["1", "2", "1.0"], ["2", "2", "2.0"]]


def test_read_digits(finished):
    """Images of the tiny project do not look like digits, so the exit status is 1."""
    command = [sys.executable, str(FOLDER / "read_digits.py"), "--min-accuracy", "0.95"]
    process = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert "% of 1000 generated digits" in process.stdout


@pytest.mark.parametrize("kind", ["folder", "zip", "webdataset"])
def test_scan(script_with, tmp_path, kind):
    script = script_with("scan")
    path = script.WRITE[kind](tmp_path / kind, 8, 2)
    assert script.measure(kind, path)["images"] == 8


def test_checkpoints(script_with, root, monkeypatch):
    """On one rank, in this process."""
    monkeypatch.setenv("RANK", "0")
    script = script_with("checkpoints", "--seconds 1 --save 0 --interval 0.05 --mb 12")
    args = script.argument_parser().parse_args()
    monkeypatch.setattr(checkpoint_parts, "save_file", checkpoint_parts.save_file)
    assert script.stalls(args)["saves"] > 1
    assert {"stall, s/GB", "save, s/GB", "read, s/GB"} <= script.costs(args).keys()


def test_learning_rates(script_with, tmp_path, monkeypatch, capsys):
    """Distances with a minimum three steps above the params' rate, next to one that fails: the rate below it
    is taken. A second run trains nothing.
    """
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
    script = script_with("learning_rates", f"{tmp_path}/out {tmp_path} --configs G --fraction 0.5")
    trained = []

    def evaluate(folder, training):
        params = load(folder / "params.yaml")
        assert params.seeds == (100,) == (training.seed,)
        resolved = params.resolved(training.config)
        assert (params.diffusion.duration_nimg, resolved.lr_rampup_nimg) == (51200, 6400)
        assert resolved.lr_decay_batches == 2000
        trained.append(resolved.lr_ref)
        distance = 100 if resolved.lr_ref > 0.32 else 1 + math.log2(0.32 / resolved.lr_ref)
        return {
            ("fd_classifier_1k", 0.1): distance,
            ("fd_classifier_1k", 0.2): distance + 1,
        }.items()

    monkeypatch.setattr(script, "evaluate", evaluate)
    for _ in range(2):
        script.main()
        assert trained == [0.04, 0.02, 0.08, 0.16, 0.32, 0.64]
        row = capsys.readouterr().out.splitlines()[-1].split()
        assert row[:4] == ["G", "0.16", "2.0", "no"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["learning_rates.csv"]


def test_latents(script_with, finished, capsys):
    """float16 has 11 bits: a number of [1, 2) is off by up to 2⁻¹¹, uniformly."""
    script = script_with("latents", str(finished))
    mean = 1 + torch.rand(1000, 1, 8, 8)
    std, unit = torch.full_like(mean, 0.5), Normalization(torch.zeros(1), torch.full((1,), 2.0))
    (row,) = script.errors("x", mean, std, unit, 0.01)
    error = 2**-11 / 3**0.5
    assert row["rms error"] == pytest.approx(error, rel=0.02)
    assert row["/ std"] == pytest.approx(error / 2, rel=0.02)
    assert row["/ noise"] == pytest.approx(error / 0.5, rel=0.02)
    assert row["/ sigma_min"] == pytest.approx(error / 2 * 0.5 / 0.01, rel=0.02)
    script.main()
    out = capsys.readouterr().out
    assert sum("finished" in line for line in out.splitlines()) == 4
    assert "of 255 levels" in out
