"""The commands that put experiments side by side, on revisions of a repository."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from dvc.repo import Repo
from PIL import Image
from tiny import ROOT, TINY, write_params

VARIANCE = ("0.1", "0.3")


@pytest.fixture(scope="module")
def repository(finished, tmp_path_factory):
    """Two commits, `first` and `second`, of other params and numbers; held-out images."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(finished / "reports", folder / "reports")
    for results in ("models/vae", "data/images"):
        shutil.copytree(finished / results, folder / results)

    def git(*words):
        name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)

    git("init")
    Repo.init(str(folder)).close()
    for number, tag in enumerate(("first", "second")):
        decay = 100 * 4**number
        write_params(
            folder / "params.yaml",
            {**TINY, "diffusion.lr_decay_batches": decay, "vae.variance": float(VARIANCE[number])},
        )
        path = folder / "reports/fid/G.csv"
        curves = pd.read_csv(path)
        curves["value"] = 1 + abs(curves["sigma_rel"] - (0.1, 0.05)[number])
        curves.to_csv(path, index=False)
        path = folder / "reports/vae/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"psnr": 20.0 + number}))
        git("add", "--all")
        git("commit", "--message", tag)
        git("tag", tag)
    return folder


def command(folder, name, *words):
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


def test_curves_of_experiments_are_put_side_by_side(repository):
    done = command(repository, "compare", "first", "second", "workspace")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(repository / "reports/compare/compare.csv")
    assert table["experiment"].tolist() == ["first", "second", "workspace"]
    assert table["diffusion.lr_decay_batches"].tolist() == [100, 400, 400]
    assert table["best EMA length"].tolist() == [0.1, 0.05, 0.05]
    assert table["1/(lr_ref² lr_decay), relative"].tolist() == [1, 0.25, 0.25]
    assert Image.open(repository / "reports/compare/compare.png").width > 800


def test_autoencoders_of_experiments_are_put_side_by_side(repository):
    """What they measured, the distance of their reconstructions with it; and what they make of the
    same images.
    """
    done = command(repository, "compare_vae", "first", "second", "--out", "both")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(repository / "both/compare.csv")
    assert table["psnr"].tolist() == [20, 21]
    assert any(column.startswith("reconstructions/fd_classifier_") for column in table)
    rows = 3  # held-out images, and both variants
    alone = command(repository, "compare_vae", "first", "--out", "one")
    assert alone.returncode == 0, alone.stderr
    heights = [
        Image.open(repository / f"{out}/reconstructions.png").height for out in ("one", "both")
    ]
    assert heights[1] / heights[0] == pytest.approx(rows / 2, rel=0.1)


@pytest.mark.parametrize("name", ["compare", "compare_vae"])
def test_an_unknown_revision_is_refused(repository, name):
    done = command(repository, name, "first", "third")
    assert done.returncode == 2
    assert f"{name}: third: expected a revision" in done.stderr
    assert "Traceback" not in done.stderr
