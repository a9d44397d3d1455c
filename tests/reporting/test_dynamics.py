"""The table and the figures of training dynamics."""

import numpy as np
import pandas as pd
import pytest

from edm2.reporting.dynamics import (
    NOT_FINITE,
    QUANTITIES,
    by_bucket,
    dynamics_gaps,
    dynamics_table,
    magnitudes_panels,
    updates_panels,
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


def titles(panels):
    return [spec["title"] for spec in panels]


def drawn(spec):
    """The lines of a panel: values by name, part and whether it is faint."""
    lines = {}
    for row in spec["layer"][0]["data"]["values"]:
        lines.setdefault((row["name"], row.get("part"), row["faint"]), []).append(row["value"])
    return lines


def test_figures_have_panels_for_each_config():
    many = {config: {0: curves()} for config in "AG"}
    assert titles(magnitudes_panels(many)) == [
        f"Config {config}: {quantity}" for config in "AG" for quantity in ("activations", "weights")
    ]
    assert titles(updates_panels(many)) == ["Config A: updates", "Config G: updates"]


def test_a_panel_has_mean_and_maximum_of_each_bucket():
    """Resolutions are colors, the halves of the network line styles, maxima faint."""
    table = curves()
    table["weights_max/dec-4x4"] = 3.0
    (_, weights) = magnitudes_panels({"G": {0: table}})
    lines = drawn(weights)
    assert lines.keys() == {
        (resolution, side, faint)
        for resolution in ("8x8", "4x4")
        for side in ("encoder", "decoder")
        for faint in (False, True)
    }
    assert lines["4x4", "decoder", True] == [3.0] * len(TIMES)
    assert lines["4x4", "decoder", False] == [1.0] * len(TIMES)
    encoding = weights["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["8x8", "4x4"]  # from the outside to the inside
    assert encoding["color"]["scale"]["scheme"]["name"] == "viridis"
    assert encoding["strokeDash"]["scale"]["domain"] == ["encoder", "decoder"]


def test_averaged_networks_have_panels_of_their_own():
    """Also if only some configs measured them."""
    plain = curves()
    averaged = plain[[name for name in plain if str(name).startswith(("weights", "activ"))]]
    both = pd.concat([plain, 3 * averaged.add_prefix("average/")], axis=1)
    panels = {spec["title"]: spec for spec in magnitudes_panels({"F": {0: plain}, "G": {0: both}})}
    averages = [title for title in panels if "averaged network" in title]
    assert averages == [f"Config G: averaged network, {q}" for q in ("activations", "weights")]
    assert set(drawn(panels[averages[1]])["8x8", "encoder", False]) == {3}
    assert set(drawn(panels["Config G: weights"])["8x8", "encoder", False]) == {1}


def test_buckets_need_not_be_named_by_resolutions():
    """A backbone may group its parameters otherwise."""
    panels = magnitudes_panels({"H": {0: curves(buckets=("encoder", "mlp-late"))}})
    assert {name for name, _, _ in drawn(panels[0])} == {"encoder", "mlp-late"}


def test_configs_without_measurements_have_no_panel():
    both = {"F": {0: curves(buckets=())}, "G": {0: curves()}}
    assert titles(updates_panels(both)) == ["Config G: updates"]


@pytest.mark.parametrize(("quantity", "value"), [("activations", np.nan), ("weights", np.inf)])
@pytest.mark.parametrize("rows", [[7], [3, 4, 5, 6, 7], list(range(8))])
def test_measurements_that_are_not_finite_give_no_verdict(quantity, value, rows):
    """Whether a few are, or all; what was finite keeps its verdict. They are gaps, and named."""
    table = curves()
    table.loc[rows, [c for c in table if c.startswith(quantity)]] = value
    (row,) = dynamics_table({"G": {0: table}}).to_dict("records")
    for other in ("weights", "activations"):
        verdict = NOT_FINITE if other == quantity else {"weights": "flat"}.get(other, "bounded")
        assert row[f"{other}: observed"] == verdict
    panels = {spec["title"]: spec for spec in magnitudes_panels({"G": {0: table}})}
    for values in drawn(panels[f"Config G: {quantity}"]).values():
        assert [k for k, each in enumerate(values) if each is None] == rows
    (note,) = dynamics_gaps({"G": {0: table}})
    assert note.startswith(f"{quantity} of config G, training 0: enc-8x8")
    assert f"up to {len(rows)} of 8 rows, first at {TIMES[rows[0]]} images" in note
