"""`edm2 compare` on revisions of a repository."""

import json
import shutil
import subprocess

import pandas as pd
import pytest
from dvc.repo import Repo
from PIL import Image
from tiny import TINY, write_params

from edm2.runtime.checksums import write_checksum

VARIANCE = (0.1, 0.3)


@pytest.fixture(scope="module")
def repository(finished, tmp_path_factory):
    """Two commits, `first` and `second`, with different params and metrics, and held-out images.

    Their learning rates differ too, but config G has its entry in `per_config`.
    """
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(finished / "reports", folder / "reports")
    for results in ("models/vae", "data/images"):
        shutil.copytree(finished / results, folder / results)
    (folder / "dvc.yaml").write_text("stages: {}\n")  # all results are in git

    def git(*words):
        name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)

    git("init")
    Repo.init(str(folder)).close()
    for number, tag in enumerate(("first", "second")):
        changes = {
            "diffusion.lr_decay_batches": 100 * 4**number,
            "diffusion.lr_ref": 0.01 * 4**number,
            "diffusion.per_config": {"G": {"lr_ref": 0.002}},
            "vae.variance": VARIANCE[number],
        }
        write_params(folder / "params.yaml", {**TINY, **changes})
        path = folder / "reports/fid/G-0.csv"
        curves = pd.read_csv(path)
        curves["value"] = 1 + abs(curves["ema_length"] - (0.1, 0.05)[number])
        curves.to_csv(path, index=False)
        write_checksum(path)
        path = folder / "reports/vae/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"psnr": 20.0 + number}))
        write_checksum(path)
        git("add", "--all")
        git("commit", "--message", tag)
        git("tag", tag)
    return folder


@pytest.fixture
def compare(repository, run, monkeypatch):
    def call(*words, folder="."):
        monkeypatch.chdir(repository / folder)
        monkeypatch.setenv("HOME", str(repository))
        monkeypatch.delenv("DVC_ROOT", raising=False)
        return run("compare", *words)

    return call


def test_curves_of_experiments_side_by_side(repository, compare):
    result = compare("first", "second", "workspace")
    assert result.status == 0, result.err
    folder = repository / "reports/compare"
    table = pd.read_csv(folder / "compare.csv")
    assert table["experiment"].tolist() == ["first", "second", "workspace"]
    assert table["diffusion.lr_decay_batches"].tolist() == [100, 400, 400]
    assert table["diffusion.lr_ref"].tolist() == [0.002] * 3  # that of config G
    assert table["best EMA length"].tolist() == [0.1, 0.05, 0.05]
    assert table["1/(lr_ref² lr_decay), relative"].tolist() == [1, 0.25, 0.25]
    assert Image.open(folder / "compare.png").width > 600
    assert result.out.strip().endswith("page: reports/compare/index.html")
    assert (folder / "index.html").stat().st_size > 10_000
    assert "not settled" in result.out
    verdicts = pd.read_csv(folder / "verdict.csv")
    assert verdicts["base"].tolist() == ["G"] * 4
    assert verdicts["trainings"].tolist() == [1] * 4
    params = "diffusion.lr_decay_batches=400, vae.variance=0.3"  # no lr_ref, which G does not use
    assert verdicts["change"].tolist() == [f"G ({params})"] * 2 + ["G (workspace)"] * 2


def test_a_config_of_a_revision_and_one_of_the_workspace(repository, compare):
    result = compare("first:G", "G", "--out", "configs")
    assert result.status == 0, result.err
    verdicts = pd.read_csv(repository / "configs/verdict.csv")
    assert set(verdicts["base"]) == {"G"}
    assert verdicts["difference"].tolist()[0] == pytest.approx(0)
    changed = pd.read_csv(repository / "configs/params.csv", dtype=str)
    decay = changed[changed["param"] == "diffusion.lr_decay_batches"].iloc[0]
    assert (decay["of base"], decay["of change"]) == ("100", "400")


def test_vaes_of_experiments_side_by_side(repository, compare):
    """Their metrics, with those of the baselines, and their reconstructions of the same images."""
    result = compare("--vae", "first", "second", "--out", "both")
    assert result.status == 0, result.err
    table = pd.read_csv(repository / "both/compare.csv")
    assert table["psnr"].tolist() == [20, 21]
    assert any(column.startswith("reconstructions/fd_classifier_") for column in table)
    assert "psnr" in (repository / "both/compare.md").read_text()
    rows = 3  # held-out images, and both variants
    alone = compare("--vae", "first", "--out", "one")
    assert alone.status == 0, alone.err
    heights = [
        Image.open(repository / f"{out}/reconstructions.png").height for out in ("one", "both")
    ]
    assert heights[1] / heights[0] == pytest.approx(rows / 2, rel=0.1)


def test_out_is_relative_to_the_current_folder(repository, compare):
    result = compare("first", "--out", "notes", folder="reports")
    assert result.status == 0, result.err
    assert "Nothing to compare" in result.out
    assert (repository / "reports/notes/compare.csv").exists()
    assert (repository / "reports/notes/compare.png").exists()
    assert not (repository / "notes").exists()


@pytest.mark.parametrize(
    ("options", "file"),
    [([], "reports/fid/G-0.csv"), (["--vae"], "reports/baselines/metrics.json")],
)
def test_a_changed_table_of_the_workspace_is_refused(repository, compare, options, file):
    path = repository / file
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    result = compare(*options, "workspace")
    path.write_bytes(before)
    assert result.status == 2
    assert f"{file}: SHA-256 differs" in result.err


@pytest.mark.parametrize("options", [[], ["--vae"]])
def test_an_unknown_revision_is_an_error(compare, options):
    result = compare(*options, "first", "third")
    assert result.status == 2
    assert "third: " in result.err
    assert ("tags first, second" in result.err) == (not options)
    assert "Traceback" not in result.err


def test_a_training_is_no_target(compare):
    result = compare("G-0", "workspace")
    assert result.status == 2
    assert "G-0: a single training of config G" in result.err
