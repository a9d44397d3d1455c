"""What is compared with, made once; and the pipeline with a published detector."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from page_text import page_text
from published_pickles import EasyDict, pickled
from random_detectors import write_dinov2, write_inception
from safetensors.torch import load_file
from tiny import REPLICATE, ROOT, TINY, make_project, run_stage

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


def seen(folder, split, detector=None):
    images = ImageShards(folder / "data/images", split)
    detector = detector or load_classifier(folder / "models/features", CPU)
    return detector.features(images.batch(range(len(images)))[0]).double().numpy()


def moments(features):
    return features.mean(0), np.cov(features.T)


def test_all_training_images_are_seen(finished):
    """1527 are no multiple of a batch; in an order of their own, so that the first are a sample."""
    train = seen(finished, "train")
    folder = finished / "data/reference"
    manifest = read_manifest(folder)
    assert (
        manifest["count"]
        == len(train)
        == read_manifest(finished / "data/images")["images"]["train"]
    )
    assert len(train) % 256
    assert (manifest["detector"], manifest["dims"]) == ("classifier", 8)
    assert manifest["images"] == sha256(finished / "data/images/manifest.json")
    assert manifest["weights"] == sha256(finished / "models/features/network.safetensors")
    with np.load(folder / "statistics.npz", allow_pickle=False) as arrays:
        stored = arrays["mu"], arrays["sigma"]
    for ours, expected in zip(stored, moments(train), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)
    order = np.argsort(generator(0, "evaluation/reference").permutation(len(train)))
    features = np.load(folder / "features.npy", allow_pickle=False)
    np.testing.assert_allclose(features, train[order], rtol=1e-3, atol=1e-5)


def test_baselines_are_distances_to_it(finished):
    train, held_out = (seen(finished, split) for split in ("train", "held_out"))
    baselines = json.loads((finished / "reports/baselines/metrics.json").read_text())
    real, decoded = (
        f"{what}/fd_classifier_{len(held_out)}" for what in ("held_out", "reconstructions")
    )
    assert baselines.keys() == {real, decoded}
    expected = frechet_distance(*moments(held_out), *moments(train))
    assert baselines[real] == pytest.approx(expected, rel=1e-3)
    codec, images = (
        load_codec(finished / "models/vae", CPU),
        ImageShards(finished / "data/images", "held_out"),
    )
    pixels = codec.decode(codec.encode(images.batch(range(len(images)))[0])[0])
    features = load_classifier(finished / "models/features", CPU).features(pixels).double().numpy()
    expected = frechet_distance(*moments(features), *moments(train))
    assert baselines[decoded] == pytest.approx(expected, rel=1e-3)
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    assert {f"baselines/{key}" for key in baselines} <= metrics.keys()


@pytest.mark.parametrize(
    "out",
    [
        "data/reference/features.npy",
        "data/reference/statistics.npz",
        "reports/baselines/metrics.json",
        "data/latents/manifest.json",  # it has the checksums of all shards
        "reports/latents/spectrum.csv",
        "reports/latents/channels.csv",
        "reports/latents/robustness.csv",
    ],
)
def test_two_ranks_find_the_same_bits_as_one(two_ranks, finished, out):
    assert (two_ranks / out).read_bytes() == (finished / out).read_bytes()


def test_another_detector_is_other_work_for_those_that_measure_alone():
    """Nothing is trained or encoded again."""
    asking = {
        name
        for name in (
            "prepare",
            "train_features",
            "reference",
            "train_vae",
            "baselines",
            "encode_latents",
            "train_diffusion",
            "sweep_ema",
            "fid",
            "report",
        )
        if any(
            key.startswith("evaluation")
            for key in read_declaration(name, REPLICATE, ROOT / "dvc.yaml").params
        )
    }
    assert asking == {"reference", "baselines", "fid"}


@pytest.mark.parametrize("stage", ["baselines", "fid"])
def test_a_reference_of_another_classifier_is_refused(project, stage):
    folder = project()
    arguments = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**arguments), folder / "models/features")
    with pytest.raises(
        UserError, match=r"data/reference: expected weights .*`dvc repro -f -s refer"
    ):
        run_stage(stage, "G" if stage == "fid" else "")


def test_too_few_training_images_are_told_before_anything_is_trained(project, finished):
    train = read_manifest(finished / "data/images")["images"]["train"]
    folder = project(features__dims=train, evaluation__samples=2 * train)
    arguments = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**{**arguments, "dims": train}), folder / "models/features")
    with pytest.raises(UserError, match=f"{train} images: .* {train} feature dimensions"):
        run_stage("reference")


def test_held_out_images_no_more_than_dimensions_are_no_baseline(project, finished, capsys):
    count = read_manifest(finished / "data/images")["images"]["held_out"]
    folder = project(features__dims=count, evaluation__samples=2 * count)
    arguments = read_manifest(folder / "models/features")["network"]
    save_classifier(Classifier(**{**arguments, "dims": count}), folder / "models/features")
    for stage in ("reference", "baselines"):
        run_stage(stage)
    assert json.loads((folder / "reports/baselines/metrics.json").read_text()) == {}
    assert (
        f"{count} held-out images are no more than the {count} feature" in capsys.readouterr().out
    )


SAMPLES = 12


def test_published_statistics_and_the_inception_score(finished, tmp_path, monkeypatch):
    """A random Inception and made-up moments of its features; values made here once more."""
    weights = write_inception(tmp_path / "inception.pth", monkeypatch)
    mean, variance = np.random.default_rng(0).normal(size=2048), 0.8
    theirs = EasyDict(mu=mean, sigma=variance * np.eye(2048))  # as EDM2's authors publish them
    (tmp_path / "theirs.pkl").write_bytes(pickled({"fid": theirs}))
    folder = make_project(
        tmp_path / "project",
        {
            **TINY,
            "evaluation.detector": "inception",
            "evaluation.detector_path": str(weights),
            "evaluation.reference": str(tmp_path / "theirs.pkl"),
            "evaluation.samples": SAMPLES,
            "evaluation.allow_singular": True,
            "evaluation.metrics": ["fd", "is"],
            "evaluation.confirm": False,
            "evaluation.grid_columns": 1,
            "sweep.ema_lengths": [0.1],
        },
    )
    for results in ("data", "models", "reports"):
        shutil.copytree(finished / results, folder / results)
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

    rows = pd.read_csv(folder / "reports/fid/G-0.csv").set_index("metric")
    assert list(rows.index) == [f"fid_{SAMPLES}", f"is_inception_{SAMPLES}"]
    assert rows["detector"].eq("inception").all()
    assert rows["reference"].isna().all()
    assert rows["singular"].tolist() == [True, False]
    detector = load_inception(weights, CPU)
    features = detector.features(generated(folder))
    ours = features.double().numpy()
    assert ours.std(0).mean() > 0
    # tr(Σ + vI − 2√(vΣ)); Σ has the eigenvalues of the small Gram matrix, and zeros
    centered = ours - ours.mean(0)
    eigenvalues = np.linalg.eigvalsh(centered @ centered.T / (SAMPLES - 1)).clip(0)
    trace = eigenvalues.sum() + variance * 2048 - 2 * np.sqrt(variance * eigenvalues).sum()
    expected = ((ours.mean(0) - mean) ** 2).sum() + trace
    assert rows.loc[f"fid_{SAMPLES}", "value"] == pytest.approx(expected, rel=1e-4)
    value, deviation = inception_score(detector.probabilities(features).numpy())
    score = rows.loc[f"is_inception_{SAMPLES}", ["value", "standard_error"]].tolist()
    assert score == pytest.approx([value, deviation / np.sqrt(10)], rel=1e-3)
    page = page_text((folder / "reports/index.html").read_text())
    assert "of an unknown number of images" in page
    assert "of an unknown number" not in page_text((finished / "reports/index.html").read_text())


def generated(folder):
    params = load(folder / "params.yaml").of("G")
    latents = LatentShards(folder / "data/latents", "train")
    (network,) = read_manifest(folder / "models/sweep/G-0")["networks"]
    denoiser = set_network(
        denoiser_for("G", params, latents.shape, 10),
        load_file(folder / "models/sweep/G-0" / network["file"]),
    )
    seeds = range(SAMPLES)
    labels, steps = seed_labels(seeds, 10, params.sampling.labels), params.sampling.steps
    x = heun(lambda x, s: denoiser(x, s, labels), seed_noise(seeds, latents.shape, CPU), steps)
    return load_codec(folder / "models/vae", CPU).decode(latents.normalization.denormalize(x))


def test_files_from_outside_are_other_work(project, tmp_path, monkeypatch):
    folder = project()
    assert external_inputs(load("params.yaml")) == ""
    weights = write_dinov2(tmp_path / "weights.pth", monkeypatch)
    (tmp_path / "theirs.npz").write_bytes(b"x")
    folder = make_project(
        tmp_path / "other",
        {
            **TINY,
            "evaluation.detector": "dinov2",
            "evaluation.samples": 1100,
            "evaluation.detector_path": str(weights),
            "evaluation.reference": str(tmp_path / "theirs.npz"),
        },
    )
    monkeypatch.chdir(folder)
    descriptions = {external_inputs(load("params.yaml"))}
    for name in ("weights.pth", "theirs.npz"):
        os.utime(tmp_path / name, (1, 1))
        descriptions.add(external_inputs(load("params.yaml")))
    assert len(descriptions) == 3
