"""The table and the figures of training dynamics."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from edm2.reporting.dynamics import (
    NOT_FINITE,
    QUANTITIES,
    by_bucket,
    draw_magnitudes,
    draw_updates,
    dynamics_table,
)

TIMES = np.arange(1, 9) * 100
BUCKETS = ("enc-8x8", "enc-4x4", "dec-4x4", "dec-8x8")


def curves(weights=1.0, activations=1.0, spread=1.0, buckets=BUCKETS):
    """Magnitudes that grow linearly by a factor over training; updates that differ by `spread`."""
    rows = {"nimg": TIMES, "train/loss": 1.0}
    for k, bucket in enumerate(buckets):
        ramp = (TIMES - TIMES[0]) / (TIMES[-1] - TIMES[0])
        for kind in ("mean", "max"):
            rows[f"weights_{kind}/{bucket}"] = 1 + (weights - 1) * ramp
            rows[f"activations_{kind}/{bucket}"] = 2 * (1 + (activations - 1) * ramp)
            rows[f"updates_{kind}/{bucket}"] = 0.01 * (spread if k == 0 else 1)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("factor", "observed"), [(1.0, "flat"), (1.04, "flat"), (1.2, "grow"), (0.8, "shrink")]
)
def test_weights(factor, observed):
    (row,) = dynamics_table({"D": {0: curves(weights=factor)}}).to_dict("records")
    assert row["weights: end / start"] == f"{factor:.3f} to {factor:.3f}"
    assert (row["weights: paper"], row["weights: observed"]) == ("grow", observed)


def test_activations_are_bounded_if_the_second_half_adds_little():
    """From 2 to 20 linearly: ×20/12.3 after the middle measurement; from 2 to 2.4: nearly 1."""
    rows = dynamics_table({"C": {0: curves(activations=10)}, "G": {0: curves(activations=1.2)}})
    assert list(rows["activations: observed"]) == ["grow", "bounded"]
    assert list(rows["activations: paper"]) == ["grow", "bounded"]
    assert rows["activations: maximum"].tolist() == pytest.approx([20, 2.4])
    middle = 2 * (1 + 9 * 4 / 7)
    assert rows["activations: growth in 2nd half"][0] == pytest.approx(20 / middle)


def test_updates():
    (row,) = dynamics_table({"E": {0: curves(spread=3)}}).to_dict("records")
    assert row["updates: largest / smallest bucket"] == pytest.approx(3)
    assert row["relative update"] == pytest.approx(0.015)


def test_several_trainings_have_ranges():
    """Numbers from the smallest to the largest; verdicts with how many trainings they are of."""
    trainings = {0: curves(weights=1.2, spread=3), 4: curves(weights=1.1), 5: curves(weights=0.9)}
    (row,) = dynamics_table({"D": trainings}).to_dict("records")
    assert row["trainings"] == 3
    assert row["weights: end / start"] == "0.900 to 1.200"
    assert row["weights: observed"] == "grow in 2, shrink in 1"
    assert row["activations: observed"] == "bounded"
    assert row["updates: largest / smallest bucket"] == "1 to 3"
    assert row["relative update"] == "0.01 to 0.015"


def test_a_training_that_is_not_finite_is_counted():
    broken = curves().assign(**{"weights_mean/enc-8x8": np.nan})
    (row,) = dynamics_table({"D": {0: curves(), 1: broken}}).to_dict("records")
    assert row["weights: end / start"] == "1.000 to 1.000, not finite in 1"
    assert row["weights: observed"] == "flat in 1, not finite in 1"


def test_the_papers_cells_are_empty_for_other_configs():
    rows = dynamics_table({"H": {0: curves(weights=1.2)}, "D": {0: curves(weights=1.2)}})
    assert rows["weights: paper"].tolist() == ["", "grow"]
    assert rows["activations: paper"].tolist() == ["", "bounded"]
    assert rows["weights: observed"].tolist() == ["grow", "grow"]


def test_configs_without_measurements_have_no_row():
    assert dynamics_table({"G": {0: curves(buckets=())}}).empty


def test_times_without_measurement_are_left_out():
    rows = curves()
    rows.loc[[0, 2], [c for c in rows if c.startswith(QUANTITIES)]] = np.nan
    assert list(by_bucket(rows, "weights_mean").index) == [200, 400, 500, 600, 700, 800]


@pytest.mark.slow
def test_figures_have_a_row_or_a_panel_per_config(tmp_path):
    few, many = {"G": {0: curves()}}, {config: {0: curves()} for config in "ABCDEFG"}
    for name, draw in (("m", draw_magnitudes), ("u", draw_updates)):
        draw(few, tmp_path / f"{name}1.png")
        draw(many, tmp_path / f"{name}7.png")
        one, seven = (Image.open(tmp_path / f"{name}{k}.png").size for k in (1, 7))
        assert seven[1] > 1.5 * one[1]


def test_averaged_networks_have_panels_of_their_own(tmp_path, monkeypatch):
    """Also if only some configs measured them."""
    figures = []
    monkeypatch.setattr("edm2.reporting.dynamics.save_figure", lambda fig, *_: figures.append(fig))
    plain = curves()
    averaged = plain[[name for name in plain if str(name).startswith(("weights", "activ"))]]
    both = pd.concat([plain, 3 * averaged.add_prefix("average/")], axis=1)
    draw_magnitudes({"F": {0: plain}})
    draw_magnitudes({"F": {0: plain}, "G": {0: both}})
    lines = [
        {a.get_title(): [line.get_ydata()[0] for line in a.lines] for a in f.axes} for f in figures
    ]
    assert list(lines[0]) == ["config F: activations", "config F: weights"]
    assert len(lines[1]) == 8
    assert lines[1]["config F: averaged network, weights"] == []
    assert lines[1]["config G: averaged network, weights"] == [3] * 2 * len(BUCKETS)
    assert lines[1]["config G: weights"] == [1] * 2 * len(BUCKETS)


def test_buckets_need_not_be_named_by_resolutions(tmp_path):
    """A backbone may group its parameters otherwise."""
    draw_magnitudes(
        {"H": {0: curves(buckets=("encoder", "mlp-late"))}}, tmp_path / "magnitudes.png"
    )
    assert (tmp_path / "magnitudes.png").stat().st_size > 0


@pytest.mark.slow  # draws figures
@pytest.mark.parametrize(("quantity", "value"), [("activations", np.nan), ("weights", np.inf)])
@pytest.mark.parametrize("rows", [[7], [3, 4, 5, 6, 7], list(range(8))])
def test_measurements_that_are_not_finite_give_no_verdict(tmp_path, quantity, value, rows):
    """Whether a few are, or all; what was finite keeps its verdict."""
    table = curves()
    table.loc[rows, [c for c in table if c.startswith(quantity)]] = value
    (row,) = dynamics_table({"G": {0: table}}).to_dict("records")
    for other in ("weights", "activations"):
        verdict = NOT_FINITE if other == quantity else {"weights": "flat"}.get(other, "bounded")
        assert row[f"{other}: observed"] == verdict
    draw_magnitudes({"G": {0: table}}, tmp_path / "magnitudes.png")
