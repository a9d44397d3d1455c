"""Trainings that diverge stop where they do; a detector that has learned nothing is said."""

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, make_project, run_stage

from edm2.pipeline.paths import FEATURES
from edm2.runtime.divergence import DivergedError
from edm2.runtime.manifest import read_manifest

pytestmark = pytest.mark.slow


def test_a_denoiser_that_diverges_stops_its_stage(project, capsys):
    """At a learning rate of 10¹⁵, no network is published. The same command stops again."""
    rate = {"A": {"lr_ref": 1e15}}  # the snapshot is at the end only, as it has a range of its own
    folder = project(configs=["A"], diffusion__per_config=rate, ema__snapshot_nimg=1024)
    for _ in range(2):
        with pytest.raises(DivergedError) as error:
            run_stage("train_diffusion", "A")
        assert 64 < error.value.since <= error.value.nimg <= 1024
        for text in ("train/loss", "config A", "diffusion.lr_ref (1e+15)"):
            assert text in str(error.value)
        assert f"since {error.value.since} images" in capsys.readouterr().err
    assert not (folder / "models/diffusion/A-0").exists()


def test_gradients_that_are_zeroed_in_every_step_stop_the_stage(project):
    """A loss scaled by 10³⁰ has gradients above float16's largest number; its loss is finite."""
    project(runtime__precision="fp16", diffusion__overrides__loss_scaling=1e30)
    with pytest.raises(DivergedError) as error:
        run_stage("train_diffusion", "G")
    assert (error.value.since, error.value.nimg) == (64, 1024)  # from the first step to the end
    for text in ("Gradients", "loss_scaling (1e+30)", "bf16 or fp32"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("stage", "key"), [("train_vae", "vae.lr"), ("train_features", "features.lr")]
)
def test_other_trainings_that_diverge_stop_their_stage(project, stage, key):
    folder = project(**{key.replace(".", "__"): 1e10})
    with pytest.raises(DivergedError, match=rf"{key} \(1e\+10\)") as error:
        run_stage(stage)
    assert "train/" in str(error.value)
    assert 64 <= error.value.since <= error.value.nimg <= 512
    assert read_manifest(folder / "models" / stage.removeprefix("train_"))  # of before


def test_a_vae_that_diverged_to_finite_values_has_no_metrics(project):
    """At a rate of 1000 everything stays finite, and clipped reconstructions would have a PSNR of 6 dB."""
    project(vae__lr=1000.0)
    with pytest.raises(
        DivergedError, match=r"values are outside \[-2, 2\].*vae\.lr \(1000\)"
    ) as error:
        run_stage("train_vae")
    assert "Not finite" not in str(error.value)


def test_a_classifier_of_a_single_class_is_said_to_be_untrained(tmp_path, monkeypatch, capsys):
    images, folder = tmp_path / "images/one", tmp_path / "project"
    images.mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{number}.png")
    changes = {"dataset.source": "folder", "dataset.path": str(images.parent)}
    make_project(folder, {**TINY, **changes})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    for stage in ("prepare", "train_features"):
        run_stage(stage)
    manifest = read_manifest(FEATURES)
    assert (manifest["accuracy_held_out"], manifest["accuracy_of_chance"]) == (1, 1)
    assert manifest["at_chance"]
    warning = capsys.readouterr().err
    for way_out in ("evaluation.detector", "vae.backbone", "several classes"):
        assert way_out in warning
