"""Stages with other images: the photographs, and web shards for the VAE."""

import io
import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import webdataset as wds
from PIL import Image
from tiny import TINY, entered, make_project, run_stage

from edm2.params import UserError, load
from edm2.runtime.manifest import read_manifest
from stages.train_vae import external_inputs, watched_inputs


@pytest.mark.slow
def test_photographs_are_prepared_and_trained_on(tmp_path):
    changes = {
        "dataset.source": "photos",
        "dataset.resolution": 32,
        "dataset.held_out": 0.1,
        "diffusion.attention_resolutions": [8],
        "vae.duration_nimg": 256,
    }
    folder = make_project(tmp_path, {**TINY, **changes})
    with entered(folder):
        for stage in ("prepare", "train_features", "train_vae"):
            run_stage(stage)
    manifest = read_manifest(folder / "data/images")
    assert (manifest["source"], manifest["resolution"]) == ("photos", 32)
    train, held_out = (manifest["images_per_class"][split] for split in ("train", "held_out"))
    assert len(train) == len(manifest["classes"]) == 10
    assert sum(train) == manifest["images"]["train"] > 4000
    assert min(train) > 100
    assert min(held_out) >= 15
    curves = pd.read_csv(folder / "reports/vae/curves.csv")
    assert curves["train/mse"].iloc[-1] < curves["train/mse"].iloc[0]


def test_results_are_the_same_without_stored_images(project, finished):
    folder = project(dataset__stored=False)
    for stage in ("prepare", "reference", "baselines", "encode_latents"):
        run_stage(stage)
    assert {path.suffix for path in (folder / "data/images").iterdir()} == {".npy", ".json"}
    files = [*finished.glob("data/latents/*"), finished / "data/reference/statistics.npz"]
    files += [finished / "reports/baselines/metrics.json"]
    for path in files:
        assert (folder / path.relative_to(finished)).read_bytes() == path.read_bytes()


def test_damaged_images_that_are_not_stored_are_listed_by_encode_latents(project):
    folder = project(dataset__stored=False, dataset__source="folder", dataset__path="pictures")
    rng, damaged = np.random.default_rng(0), ["0003.png", "0005.png", "0030.png"]
    for number in range(40):
        path = folder / "pictures/a" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(path)
        if path.name in damaged:
            path.write_bytes(path.read_bytes()[:99])
    run_stage("prepare")
    with pytest.raises(UserError) as error:
        run_stage("encode_latents")
    train = np.load(folder / "data/images/train.npy")
    expected = {name for name in damaged if int(name[:4]) in train}
    assert set(re.findall(r"\d{4}\.png", str(error.value))) == expected != set()
    assert "dvc repro -f -s prepare" in str(error.value)  # as what prepare listed has changed
    assert not list(folder.glob(".state/encode_latents/*/results/data/latents/*"))


def write_tars(folder, tars, count):
    """Write tars of `count` smooth images of different sizes each, with captions."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for tar in tars:
        with wds.TarWriter(str(folder / f"{tar:05d}.tar"), encoder=False) as writer:
            for number in range(count):
                corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8))
                stream = io.BytesIO()
                width, height = rng.integers(12, 60, 2).tolist()
                corners.resize((width, height)).save(stream, "jpeg")
                writer.write(
                    {
                        "__key__": f"{tar:05d}{number:04d}",
                        "jpg": stream.getvalue(),
                        "txt": b"colors",
                    }
                )


@pytest.fixture
def web(project):
    """web(changes...): enter a copy of the finished project whose VAE trains on three tars of images."""

    def enter(**changes):
        folder = project(
            vae__images__shards="web/{00000..00001}.tar",
            vae__images__held_out="web/0000[2].tar",
            **changes,
        )
        write_tars(folder / "web", range(3), 40)
        return folder

    return enter


def metrics_of(folder, stage):
    return json.loads((folder / f"reports/{stage}/metrics.json").read_text())


def train():
    params = load("params.yaml")
    run_stage("train_vae", "", external_inputs(params), watched_inputs(params))


def test_the_vae_trains_on_web_shards(web, finished):
    folder = web(vae__images__min_area=0.5, vae__images__flip=0.5)
    train()
    run_stage("baselines")
    curves = pd.read_csv(folder / "reports/vae/curves.csv")
    assert list(curves["nimg"]) == [128, 256, 384, 512]
    assert np.isfinite(curves["held_out/psnr"].dropna()).all()
    metrics, default = (
        {**metrics_of(p, "vae"), **metrics_of(p, "baselines")} for p in (folder, finished)
    )
    assert metrics["psnr"] != default["psnr"]  # of other held-out images
    (distance,) = (key for key in default if key.startswith("held_out/fd_classifier_"))
    assert metrics[distance] == pytest.approx(default[distance], rel=1e-9)  # of the dataset's
    assert Image.open(folder / "reports/vae/reconstructions.png").width > 24 * 16
    run_stage("encode_latents")
    assert read_manifest(folder / "data/latents")["shape"] == [4, 4, 4]


def test_damaged_images_are_named_and_mending_them_starts_nothing_again(web, capsys):
    folder = web()
    path = folder / "web/00001.tar"
    content = path.read_bytes()
    assert content.count(b"\xff\xd8\xff") == 40
    path.write_bytes(content.replace(b"\xff\xd8\xff", b"\xff\x00\xff", 2))
    with pytest.raises(UserError) as error:
        train()
    names = re.findall(r"web/00001\.tar: 00001\d{4}\.jpg: ", str(error.value))
    assert len(set(names)) == 2
    before = external_inputs(load("params.yaml"))
    path.write_bytes(content)
    assert external_inputs(load("params.yaml")) == before
    train()
    os.utime(path, (1, 1))
    capsys.readouterr()
    train()
    message = capsys.readouterr().err
    assert f"{path} changed since this run began" in message
    assert "already complete" in message
    assert len(list((folder / ".state/train_vae").glob("*/results"))) == 1


def test_external_inputs_follow_names_of_images(web):
    folder = web()
    descriptions = [external_inputs(load("params.yaml"))]
    assert "00001.tar" in descriptions[0]
    write_tars(folder / "web", [1], 41)
    descriptions.append(external_inputs(load("params.yaml")))
    (folder / "web/00001.tar").unlink()
    (folder / "web/00002.tar").rename(folder / "web/00001.tar")
    write_tars(folder / "web", [2], 40)
    descriptions.append(external_inputs(load("params.yaml")))
    assert len(set(descriptions)) == 3
    write_tars(folder / "web", [7], 2)  # does not match the pattern
    assert external_inputs(load("params.yaml")) == descriptions[-1]


def test_prepared_images_are_no_external_input(project):
    project()
    assert external_inputs(load("params.yaml")) == ""
