"""The datasets that MLflow gets for a stage's run."""

import json
from pathlib import Path

import pytest
from tiny import ROOT

from edm2.params import UserError, load
from edm2.pipeline.run_datasets import datasets_of
from edm2.runtime.checked_json import write_checked
from edm2.runtime.files import sha256
from edm2.runtime.manifest import write_manifest

METADATA = {
    "resolution": 16,
    "crop": "lanczos",
    "classes": ["cat", "dog"],
    "images": {"train": 7, "held_out": 3},
    "images_per_class": {"train": [3, 4], "held_out": [1, 2]},
}
PARAMS = load(ROOT / "params.yaml")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Manifests of 7 training and 3 held-out images of two classes, and of latents; the current folder."""
    monkeypatch.chdir(tmp_path)
    images, latents = tmp_path / "data/images", tmp_path / "data/latents"
    for folder in (images, latents):
        folder.mkdir(parents=True)
    write_manifest(images, **METADATA)
    files = {f"train-{k:06}.tar": {"samples": count} for k, count in enumerate((4, 3))}
    content = {"classes": ["cat", "dog"], "shape": [4, 2, 2], "files": files}
    write_checked(latents / "manifest.json", content)
    return tmp_path


def changed(**sections):
    return PARAMS.model_copy(
        update={key: getattr(PARAMS, key).model_copy(update=v) for key, v in sections.items()}
    )


def names(stage, params=PARAMS):
    return [(each["name"], each["context"]) for each in datasets_of(stage, params)]


TRAIN, HELD_OUT = ("digits train", "training"), ("digits held-out", "evaluation")
LATENTS = ("digits latents", "training")


def test_a_stage_has_what_it_reads(data):
    used = {stage: names(stage) for stage in ("prepare", "train_vae", "train_diffusion", "fid")}
    assert used == {
        "prepare": [],
        "train_vae": [TRAIN, HELD_OUT],
        "train_diffusion": [TRAIN, LATENTS],
        "fid": [TRAIN],
    }


def test_a_stage_that_trains_nothing_has_no_training_images(data):
    assert names("train_vae", changed(codec={"kind": "rgb"})) == [HELD_OUT]
    assert names("train_diffusion", changed(ema={"source": "published"})) == []
    assert names("train_guide") == []
    assert names("train_guide", changed(guidance={"guide": "trained"})) == [TRAIN, LATENTS]
    for stage in ("reference", "fid"):
        assert names(stage, changed(evaluation={"reference": "img512.pkl"})) == []
    tars = PARAMS.vae.images.model_copy(update={"shards": "/data/{0..9}.tar"})
    assert names("train_vae", changed(vae={"images": tars})) == []


def test_a_dataset_has_digest_counts_and_shape(data):
    images, held_out = datasets_of("baselines", changed(dataset={"path": "/photos/animals"}))
    assert images["name"] == "digits animals train"
    checksum = sha256(data / "data/images/manifest.json")
    assert images["digest"] == held_out["digest"] == checksum[:16]
    profile = json.loads(images["profile"])
    assert profile["manifest_sha256"] == checksum
    counts = [profile[key] for key in ("images", "classes", "images_per_class", "resolution")]
    assert counts == [7, 2, "3 to 4", "16×16"]
    assert json.loads(held_out["profile"])["images"] == 3
    (feature,) = json.loads(images["schema"])["mlflow_tensorspec"]["features"]
    assert feature["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 3, 16, 16]}
    assert str(data) not in str(images)


def test_a_source_of_latents_has_no_images(data):
    latents = changed(dataset={"source": "latents", "path": "img512-sd.zip"})
    assert names("train_diffusion", latents) == [("latents img512-sd.zip", "training")]
    assert names("fid", latents) == []


def test_a_split_without_images_is_no_dataset(data):
    write_manifest(data / "data/images", **METADATA | {"images": {"train": 7, "held_out": 0}})
    assert names("baselines") == [TRAIN]


def test_latents_have_digest_count_and_shape(data):
    _, latents = datasets_of("train_diffusion", PARAMS)
    assert latents["digest"] == sha256(data / "data/latents/manifest.json")[:16]
    profile = json.loads(latents["profile"])
    assert (profile["latents"], profile["shape"], profile["dtype"]) == (7, "4×2×2", "float16")


def test_folders_that_do_not_exist_have_no_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert datasets_of("train_diffusion", PARAMS) == []


def test_a_damaged_manifest_is_an_error(data):
    Path("data/images/manifest.json").write_text("{}")
    with pytest.raises(UserError, match="data/images/manifest.json"):
        datasets_of("fid", PARAMS)
