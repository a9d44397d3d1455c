"""The reference of all metrics, baselines, and the pipeline with a published detector."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from random_detectors import write_dinov2, write_inception
from safetensors.torch import load_file
from tiny import ROOT, STAGES, TINY, make_project, run_on_two_ranks, run_stage

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.features.classifier import Classifier, load_classifier, save_classifier
from edm2.features.inception import load_inception
from edm2.metrics import frechet_distance, inception_score
from edm2.params import UserError, load
from edm2.pipeline.declaration import read_declaration
from edm2.pipeline.detection import external_inputs
from edm2.runtime.files import sha256
from edm2.runtime.manifest import read_manifest
from edm2.runtime.randomness import generator
from edm2.sampling import heun
from edm2.sampling.generate import seed_labels, seed_noise
from edm2.vae.codec import load_codec

CPU = torch.device("cpu")


def features_of(folder, split):
    images = ImageShards(folder / "data/images", split)
    detector = load_classifier(folder / "models/features", CPU)
    return detector.features(images.batch(range(len(images)))[0]).double().numpy()


def moments(features):
    return features.mean(0), np.cov(features.T)


def test_the_reference_has_all_training_images(finished):
    """Also those of the incomplete last batch; in a random order, so that the first are a sample."""
    train = features_of(finished, "train")
    folder = finished / "data/reference"
    manifest, images = read_manifest(folder), read_manifest(finished / "data/images")
    assert manifest["count"] == len(train) == images["images"]["train"]
    assert len(train) % 256
    assert (manifest["detector"], manifest["dims"]) == ("classifier", 8)
    assert manifest["images"] == sha256(finished / "data/images/manifest.json")
    assert manifest["weights"] == sha256(finished / "models/features/network.safetensors")
    with np.load(folder / "statistics.npz", allow_pickle=False) as arrays:
        for name, expected in zip(("mu", "sigma"), moments(train), strict=True):
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-4, atol=1e-7)
    order = np.argsort(generator(0, "evaluation/reference").permutation(len(train)))
    features = np.load(folder / "features.npy", allow_pickle=False)
    np.testing.assert_allclose(features, train[order], rtol=1e-3, atol=1e-5)


def test_baselines_are_distances_to_the_reference(finished):
    train, held_out = (features_of(finished, split) for split in ("train", "held_out"))
    baselines = json.loads((finished / "reports/baselines/metrics.json").read_text())
    real, decoded = (
        f"{images}/fd_classifier_{len(held_out)}" for images in ("held_out", "reconstructions")
    )
    assert baselines.keys() == {real, decoded}
    expected = frechet_distance(*moments(held_out), *moments(train))
    assert baselines[real] == pytest.approx(expected, rel=1e-3)
    codec = load_codec(finished / "models/vae", CPU)
    images = ImageShards(finished / "data/images", "held_out")
    pixels = codec.decode(codec.encode(images.batch(range(len(images)))[0])[0])
    features = load_classifier(finished / "models/features", CPU).features(pixels).double().numpy()
    expected = frechet_distance(*moments(features), *moments(train))
    assert baselines[decoded] == pytest.approx(expected, rel=1e-3)
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    assert {f"baselines/{key}" for key in baselines} <= metrics.keys()


def test_two_ranks_give_the_reference_of_one(project, finished):
    folder = project()
    shutil.rmtree(folder / "data/reference")
    run_on_two_ranks(folder, "stages.reference")
    two, one = (project / "data/reference" for project in (folder, finished))
    assert (two / "features.npy").read_bytes() == (one / "features.npy").read_bytes()
    with np.load(two / "statistics.npz") as a, np.load(one / "statistics.npz") as b:
        for name in ("mu", "sigma"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-14)


def test_only_stages_with_metrics_depend_on_the_detector():
    """After a change of the detector nothing is trained or encoded again."""
    dependent = {
        name
        for name in STAGES
        if any(
            key.startswith("evaluation")
            for key in read_declaration(name, "G", ROOT / "dvc.yaml").params
        )
    }
    assert dependent == {"reference", "baselines", "fid"}


@pytest.mark.parametrize("stage", ["baselines", "fid"])
def test_a_reference_of_another_classifier_is_refused(project, stage):
    folder = project()
    options = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**options), folder / "models/features")
    with pytest.raises(UserError, match=r"data/reference: .*weights .*dvc repro .* reference"):
        run_stage(stage, "G" if stage == "fid" else "")


def test_too_few_training_images_are_refused_before_any_training(project, finished):
    train = read_manifest(finished / "data/images")["images"]["train"]
    folder = project(features__dims=train, evaluation__samples=2 * train)
    options = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**{**options, "dims": train}), folder / "models/features")
    said = f"Fréchet distance of {train} images: expected more than the {train} feature dimensions"
    with pytest.raises(UserError, match=said):
        run_stage("reference")


def test_no_baseline_without_more_held_out_images_than_dimensions(project, finished, capsys):
    count = read_manifest(finished / "data/images")["images"]["held_out"]
    folder = project(features__dims=count, evaluation__samples=2 * count)
    options = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**{**options, "dims": count}), folder / "models/features")
    for stage in ("reference", "baselines"):
        run_stage(stage)
    assert json.loads((folder / "reports/baselines/metrics.json").read_text()) == {}
    assert f"{count} held-out images" in capsys.readouterr().out


SAMPLES = 12


def test_published_statistics_and_the_inception_score(finished, tmp_path, monkeypatch):
    """With a random Inception and random statistics; the expected values are computed here."""
    weights = write_inception(tmp_path / "inception.pth", monkeypatch)
    rng = np.random.default_rng(0)
    mean, factor = rng.normal(size=2048), rng.normal(size=(2048, 2048)) / 50
    np.savez(tmp_path / "statistics.npz", mu=mean, sigma=factor @ factor.T)
    folder = make_project(
        tmp_path / "project",
        {
            **TINY,
            "evaluation.detector": "inception",
            "evaluation.detector_path": str(weights),
            "evaluation.reference": str(tmp_path / "statistics.npz"),
            "evaluation.samples": SAMPLES,
            "evaluation.allow_singular": True,
            "evaluation.metrics": ["fd", "is"],
            "evaluation.confirm": False,
            "evaluation.grid_columns": 1,
            "sweep.ema_lengths": [0.1],
        },
        finished,
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    for stage in ("reference", "baselines"):
        run_stage(stage)
    assert json.loads((folder / "reports/baselines/metrics.json").read_text()) == {}
    manifest = read_manifest(folder / "data/reference")
    assert (manifest["detector"], manifest["dims"], manifest["count"]) == ("inception", 2048, None)
    for stage in ("sweep_ema", "fid"):
        run_stage(stage, "G")
    run_stage("report")

    rows = pd.read_csv(folder / "reports/fid/G.csv").set_index("metric")
    assert list(rows.index) == [f"fid_{SAMPLES}", f"is_inception_{SAMPLES}"]
    assert rows["detector"].eq("inception").all()
    assert rows["reference"].isna().all()
    assert rows["singular"].tolist() == [True, False]
    detector = load_inception(weights, CPU)
    features = detector.features(generated(folder))
    assert features.std(0).mean() > 0
    expected = frechet_distance(*moments(features.double().numpy()), mean, factor @ factor.T)
    assert rows.loc[f"fid_{SAMPLES}", "value"] == pytest.approx(expected, rel=1e-4)
    value, deviation = inception_score(detector.probabilities(features).numpy())
    row = rows.loc[f"is_inception_{SAMPLES}", ["value", "standard_error"]].tolist()
    assert row == pytest.approx([value, deviation / np.sqrt(10)], rel=1e-3)
    page = (folder / "reports/index.html").read_text()
    assert "of an unknown number of images" in page
    assert "of an unknown number" not in (finished / "reports/index.html").read_text()


def generated(folder):
    """Images of the one network of the sweep, uint8 [SAMPLES, 3, 16, 16]."""
    params = load(folder / "params.yaml").of("G")
    latents = LatentShards(folder / "data/latents", "train")
    (network,) = read_manifest(folder / "models/sweep/G")["networks"]
    denoiser = set_network(
        denoiser_for("G", params, latents.shape, 10),
        load_file(folder / "models/sweep/G" / network["file"]),
    )
    seeds = range(SAMPLES)
    labels = seed_labels(seeds, 10, params.sampling.labels)
    x = heun(lambda x, s: denoiser(x, s, labels), seed_noise(seeds, latents.shape), 3)
    return load_codec(folder / "models/vae", CPU).decode(latents.normalization.denormalize(x))


def test_external_inputs_follow_detector_and_reference(project, tmp_path, monkeypatch):
    project()
    assert external_inputs(load("params.yaml")) == ""
    weights = write_dinov2(tmp_path / "weights.pth", monkeypatch)
    (tmp_path / "statistics.npz").write_bytes(b"x")
    folder = make_project(
        tmp_path / "other",
        {
            **TINY,
            "evaluation.detector": "dinov2",
            "evaluation.samples": 1100,
            "evaluation.detector_path": str(weights),
            "evaluation.reference": str(tmp_path / "statistics.npz"),
        },
    )
    monkeypatch.chdir(folder)
    descriptions = {external_inputs(load("params.yaml"))}
    for name in ("weights.pth", "statistics.npz"):
        os.utime(tmp_path / name, (1, 1))
        descriptions.add(external_inputs(load("params.yaml")))
    assert len(descriptions) == 3
