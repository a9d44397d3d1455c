"""The pipeline with all options of the VAE."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from page_text import page_text
from PIL import Image
from scipy import ndimage
from tiny import run_stage

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.runtime.manifest import read_manifest
from edm2.vae.codec import load_codec

CPU = torch.device("cpu")
CELL = 3 * 16 + 2  # an image of 16 pixels at three times its size, and a gap


@pytest.fixture(scope="module")
def curves(full_vae):
    return pd.read_csv(full_vae / "reports/vae/curves.csv").set_index("nimg")


def test_curves_begin_with_their_losses(curves, finished):
    """The discriminator is trained after 128 images, the adversarial loss is used after 256."""
    assert list(curves.index) == [128, 256, 384, 512]
    shown = {name: list(curves.index[curves[name].notna()]) for name in curves}
    for name in ("perceptual", "pooled", "low_pass", "mse", "kl"):
        assert shown[f"train/{name}"] == [128, 256, 384, 512]
    for name in ("loss", "images", "reconstructions", "accuracy"):
        assert shown[f"discriminator/{name}"] == [256, 384, 512]
    assert shown["train/adversarial"] == shown["gradient/adversarial"] == [384, 512]
    assert shown["held_out/psnr"] == [256, 512]
    assert (curves["train/nonfinite_gradients"] == 0).all()
    assert np.isfinite(curves.fillna(0)).all(axis=None)
    default = pd.read_csv(finished / "reports/vae/curves.csv")
    assert not any("discriminator" in name or "low_pass" in name for name in default)


def test_the_discriminator_learns(curves):
    accuracy = curves["discriminator/accuracy"]
    assert accuracy[512] > 0.5
    assert curves["discriminator/images"][512] > curves["discriminator/reconstructions"][512]


def test_metrics_are_of_the_saved_codec(full_vae, curves):
    metrics = json.loads((full_vae / "reports/vae/metrics.json").read_text())
    held_out = ImageShards(full_vae / "data/images", "held_out")
    codec = load_codec(full_vae / "models/vae", CPU)
    pixels, _ = held_out.batch(range(len(held_out)))
    decoded = codec.decode(codec.encode(pixels)[0])
    error = (pixels.double() - decoded.double()).square().mean(dim=(1, 2, 3))
    assert metrics["psnr"] == pytest.approx(
        float((10 * torch.log10(255**2 / error)).mean()), rel=1e-4
    )
    assert curves["held_out/psnr"][512] == pytest.approx(metrics["psnr"], rel=1e-3)
    assert {"ssim", "perceptual_classifier", "latent/kurtosis", "latent/mean_3"} <= metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


def mask(pixels):
    """The mask of an image [3, 16, 16] as the page shows it, by SciPy: 255 where the image is flat."""
    window = np.ones((5, 5))
    window[[0, 0, 4, 4], [0, 4, 0, 4]] = 0
    window[2, 2] = -20
    gray = pixels.double().numpy().mean(axis=0)
    busy = ndimage.gaussian_filter(
        np.abs(ndimage.correlate(gray, window, mode="nearest")), 2.0, mode="nearest", radius=6
    )
    flatness = 1 - (busy - busy.min()) / (busy.max() - busy.min())
    return np.where(flatness >= 0.8, np.rint(255 * flatness), 0)


def test_the_grid_has_a_row_of_masks(full_vae, finished):
    pictures = {
        folder: Image.open(folder / "reports/vae/reconstructions.png").convert("RGB")
        for folder in (full_vae, finished)
    }
    assert pictures[finished].height == 3 * CELL + 2
    assert pictures[full_vae].height == 4 * CELL + 2
    held_out = ImageShards(full_vae / "data/images", "held_out")
    pixels = np.asarray(pictures[full_vae])
    left = pixels.shape[1] - 24 * CELL
    for k in range(24):
        columns = slice(left + CELL * k, left + CELL * k + 48, 3)
        image, shown = (pixels[CELL * row + 2 : CELL * row + 50 : 3, columns] for row in (0, 3))
        assert np.array_equal(image, held_out[k][0].permute(1, 2, 0))
        expected = mask(held_out[k][0])[..., None]
        assert (np.abs(shown - expected) <= 1).mean() > 0.99  # rounding decides at 0.8
        assert 0.02 < (expected > 0).mean() < 0.98


def test_each_latent_has_its_std(full_vae):
    assert read_manifest(full_vae / "data/latents")["shape"] == [4, 4, 4]
    latents = LatentShards(full_vae / "data/latents", "train")
    mean, std, _ = latents.batch(range(40))
    assert std.min() > 0
    assert len(std.unique()) > 100
    assert mean.abs().max() <= 4
    pixels, _ = ImageShards(full_vae / "data/images", "train").batch(range(40))
    for written, expected in zip(
        (mean, std), load_codec(full_vae / "models/vae", CPU).encode(pixels), strict=True
    ):
        np.testing.assert_allclose(written, expected, rtol=2**-10, atol=1e-4)


def test_images_are_generated_from_these_latents(full_vae):
    table = pd.read_csv(full_vae / "reports/fid/G-0.csv")
    assert len(table) == 8  # three EMA lengths and fresh seeds, at two sample counts
    assert np.isfinite(table["value"]).all()


def test_the_report_shows_the_vae(full_vae):
    page = page_text((full_vae / "reports/index.html").read_text())
    assert "Training curves of the VAE" in page
    assert ">VAE</h2>" in page
    assert "nan" not in page.split(">VAE</h2>")[1].split("</h2>")[0].split("<img")[0]
    with Image.open(full_vae / "reports/vae.png") as picture:
        assert min(picture.size) > 100


def test_rows_and_evaluations_have_their_intervals(project):
    folder = project(
        vae__log_nimg=64, vae__evaluate_nimg=128, vae__duration_nimg=256, vae__losses__mse=0.5
    )
    run_stage("train_vae")
    assert Image.open(folder / "reports/vae/reconstructions.png").height == 3 * CELL + 2  # no mask
    names = ["000000000128.png", "000000000256.png", "manifest.json"]
    assert sorted(path.name for path in (folder / "reports/vae/progress").iterdir()) == names
    rows = pd.read_csv(folder / "reports/vae/curves.csv")
    assert list(rows["nimg"]) == [64, 128, 192, 256]
    assert list(rows["nimg"][rows["held_out/psnr"].notna()]) == [128, 256]


def test_channels_last_only_changes_rounding(project, finished):
    """The codec is saved and loaded like any other."""
    folder = project(runtime__channels_last=True)
    run_stage("train_vae")
    curves, expected = (pd.read_csv(p / "reports/vae/curves.csv") for p in (folder, finished))
    pd.testing.assert_frame_equal(curves, expected, rtol=1e-2, atol=1e-6)
    load_codec(folder / "models/vae", CPU)
