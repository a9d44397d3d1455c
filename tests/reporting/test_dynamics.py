"""Training dynamics in words and pictures."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from edm2.reporting.dynamics import draw_magnitudes, draw_updates, dynamics_table, measured

TIMES = np.arange(1, 9) * 100


def curves(weights=1.0, activations=1.0, spread=1.0):
    """Magnitudes that grow linearly to a factor over training; updates that differ by `spread`."""
    rows = {"nimg": TIMES, "train/loss": 1.0}
    for k, bucket in enumerate(("enc-8x8", "enc-4x4", "dec-4x4", "dec-8x8")):
        ramp = (TIMES - TIMES[0]) / (TIMES[-1] - TIMES[0])
        for kind in ("mean", "max"):
            rows[f"weights_{kind}/{bucket}"] = 1 + (weights - 1) * ramp
            rows[f"activations_{kind}/{bucket}"] = 2 * (1 + (activations - 1) * ramp)
            rows[f"updates_{kind}/{bucket}"] = 0.01 * (spread if k == 0 else 1)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("factor", "seen"), [(1.0, "flat"), (1.04, "flat"), (1.2, "grow"), (0.8, "shrink")]
)
def test_weights(factor, seen):
    (row,) = dynamics_table({"D": curves(weights=factor)}).to_dict("records")
    assert row["weights: end over start"] == f"{factor:.3f} to {factor:.3f}"
    assert (row["weights, paper"], row["weights, seen"]) == ("grow", seen)


def test_activations_are_bounded_when_the_second_half_adds_little():
    """From 2 to 20 linearly: ×20/12.3 after the middle measurement; from 2 to 2.4: nearly 1."""
    rows = dynamics_table({"C": curves(activations=10), "G": curves(activations=1.2)})
    assert list(rows["activations, seen"]) == ["grow", "bounded"]
    assert list(rows["activations, paper"]) == ["grow", "bounded"]
    assert rows["activations: largest"].tolist() == pytest.approx([20, 2.4])
    middle = 2 * (1 + 9 * 4 / 7)
    assert rows["activations: growth in 2nd half"][0] == pytest.approx(20 / middle)


def test_updates():
    (row,) = dynamics_table({"E": curves(spread=3)}).to_dict("records")
    assert row["updates: largest bucket over smallest"] == pytest.approx(3)
    assert row["relative update"] == pytest.approx(0.015)


def test_times_without_measurement_are_left_out():
    rows = curves()
    rows.loc[[0, 2], [c for c in rows if "/" in c and "weights" in c]] = np.nan
    assert list(measured(rows, "weights_mean").index) == [200, 400, 500, 600, 700, 800]


def test_pictures_have_a_row_or_a_panel_per_config(tmp_path):
    few, many = {"G": curves()}, {config: curves() for config in "ABCDEFG"}
    for name, draw in (("m", draw_magnitudes), ("u", draw_updates)):
        draw(few, tmp_path / f"{name}1.png")
        draw(many, tmp_path / f"{name}7.png")
        one, seven = (Image.open(tmp_path / f"{name}{k}.png").size for k in (1, 7))
        assert seven[1] > 1.5 * one[1]
