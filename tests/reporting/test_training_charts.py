"""Training curves of the denoisers and of the VAE."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from edm2.reporting.time_charts import MAX_POINTS, thinned, write_panels
from edm2.reporting.training_charts import (
    training_gaps,
    training_panels,
    vae_gaps,
    vae_panels,
    vae_quality,
)


def training_curve(loss):
    columns = ("train/loss", "train/weighted_mse", "train/lr", "weighted_mse/sigma_1")
    zeroed = {"train/nonfinite_gradients": 0.0}
    times = [500 * (k + 1) for k in range(len(loss))]
    return pd.DataFrame({"nimg": times, **dict.fromkeys(columns, loss), **zeroed})


def lines_of(spec):
    """Values of a panel's lines, strong ones last."""
    lines = {}
    for row in spec["layer"][0]["data"]["values"]:
        lines.setdefault((row["name"], row["line"]), []).append(row["value"])
    return lines


def test_training_curves_have_each_training_and_their_mean():
    panels = training_panels({"G": {0: training_curve([4.0, 2.0]), 1: training_curve([2.0, 1.0])}})
    names = ["config G"] * 3 + ["σ ≈ 1"]
    for spec, name in zip(panels, names, strict=True):
        assert lines_of(spec) == {
            (name, 0): [4.0, 2.0],
            (name, 1): [2.0, 1.0],
            (name, 2): [3.0, 1.5],
        }
        assert [row["faint"] for row in spec["layer"][0]["data"]["values"]][::2] == [
            True,
            True,
            False,
        ]


def test_a_panel_has_a_line_per_config():
    """Rows of other measurements are not of the log, and no gaps."""
    longer = training_curve([3.0, 2.0, 1.0])
    longer.loc[len(longer)] = {"nimg": 1750, "weights_mean/enc-8x8": 1.0}
    curves = {"A": {0: training_curve([4.0, 2.0])}, "G": {0: longer}}
    loss = training_panels(curves)[0]
    assert lines_of(loss) == {("config A", 0): [4.0, 2.0], ("config G", 1): [3.0, 2.0, 1.0]}
    assert loss["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["config A", "config G"]
    hover = loss["layer"][-1]["data"]["values"]
    assert [row["v0"] for row in hover] == ["4", "2", "–"]
    assert training_gaps(curves) == []


def test_a_loss_that_is_not_finite_is_a_gap_with_a_name():
    panels = training_panels({"G": {0: training_curve([4.0, np.inf, 2.0])}})
    assert lines_of(panels[0])["config G", 0] == [4.0, None, 2.0]
    assert [row["value"] for row in panels[0]["layer"][1]["data"]["values"]] == [4.0, 2.0]
    assert [row["v0"] for row in panels[0]["layer"][-1]["data"]["values"]][1] == "no finite value"
    (note,) = training_gaps({"G": {0: training_curve([4.0, np.inf, 2.0])}})
    assert "config G, training 0" in note
    assert "1 of 3 rows, first at 1,000 images" in note


def test_long_curves_are_thinned_and_keep_their_end_and_their_gaps():
    long = pd.Series(np.arange(1001.0), index=range(1, 1002))
    short = thinned(long)
    assert MAX_POINTS * 0.8 < len(short) <= MAX_POINTS
    assert short.index[-1] == 1001
    assert all(short == long[short.index])
    long[500] = np.nan  # one of those that are left out
    assert 500 not in short.index
    (gap,) = thinned(long)[lambda values: values.isna()].index
    assert 500 < gap < 510


def test_the_vae_has_panels_of_quality_losses_and_discriminator():
    """A loss that begins later has no gap before; one that may be negative has an axis with both signs."""
    rows = pd.DataFrame(
        {
            "nimg": [1000, 2000, 3000],
            "train/nonfinite_gradients": 0.0,
            "train/mse": [0.5, 0.25, 0.125],
            "train/adversarial": [np.nan, -0.5, 0.5],
            "discriminator/images": [np.nan, 0.5, 0.75],
            "held_out/evaluated_images": [np.nan, 100, 100],
            "held_out/psnr": [np.nan, 20.0, np.inf],
        }
    )
    quality, losses, scores = vae_panels(rows)
    assert lines_of(quality) == {("PSNR", 0): [20.0, None]}
    assert "dB" in quality["layer"][0]["encoding"]["y"]["title"]
    assert lines_of(losses)["adversarial", 1] == [-0.5, 0.5]
    assert losses["layer"][0]["encoding"]["y"]["scale"]["type"] == "symlog"
    assert lines_of(scores) == {("images", 0): [0.5, 0.75]}
    assert vae_gaps(rows) == ["VAE: PSNR in dB (up to 1 of 2 rows, first at 3,000 images)"]
    others = {"ssim": 0.5, "perceptual_vgg16": 2.0, "rfd_dinov2_2k": 30.0, "latent/std": 1.0}
    panels = vae_panels(
        rows.assign(**{f"held_out/{name}": value for name, value in others.items()})
    )
    titles = [spec["layer"][0]["encoding"]["y"]["title"] for spec in panels[:4]]
    assert titles == ["PSNR in dB", "SSIM", "perceptual distance (vgg16)", "rfd_dinov2_2k"]
    assert lines_of(panels[3]) == {("Fréchet distance to their images", 0): [30.0, 30.0]}
    assert len(panels) == 6
    table = vae_quality(rows.assign(**{"held_out/ssim": 0.5}))
    assert table.to_numpy().tolist() == [
        ["PSNR in dB", 2000, 20.0],
        ["SSIM", 2000, 0.5],
        ["SSIM", 3000, 0.5],
    ]
    assert list(vae_quality(rows[:0])) == list(table)
    positive = vae_panels(rows.drop(columns=["train/adversarial", "discriminator/images"]))
    assert len(positive) == 2
    assert positive[1]["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"


@pytest.mark.slow
def test_panels_are_written_as_one_picture(tmp_path):
    panels = training_panels({"G": {0: training_curve([4.0, 2.0])}})
    write_panels(panels[:3], tmp_path / "three.png", columns=2)
    write_panels(panels[:1], tmp_path / "one.png", columns=2)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert three.width >= 2 * one.width
        assert three.height >= 2 * one.height
        assert three.convert("L").getextrema()[1] == 255
