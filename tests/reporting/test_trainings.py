"""Several trainings of a config: means, intervals, and each training."""

import numpy as np
import pandas as pd
import pytest
from network_rows import concatenated, network_rows
from scipy import stats

from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.selection import ema_curve
from edm2.reporting.sweeps import guidance_curves, minima, time_curves
from edm2.reporting.tables import ablation_table, baseline_table, curve_means
from edm2.reporting.trainings import (
    best_networks,
    by_training,
    mean_and_interval,
    mean_curve,
    mean_over_trainings,
)

CURVES = {0: (3.0, 1.0, 2.0), 1: (4.0, 1.6, 1.2), 5: (3.5, 2.0, 2.5)}
OWN_BEST = [1.0, 1.2, 2.0]  # at 0.1, 0.2, 0.1


def trainings(**columns):
    return concatenated(
        *(network_rows(values, training_seed=seed, **columns) for seed, values in CURVES.items())
    )


def students_t(values):
    """The interval of the mean, as scipy's test has it."""
    return tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def in_words(values):
    return "{:.4g} to {:.4g}".format(*students_t(values))


def test_the_interval_is_students_t():
    values = [1.0, 1.2, 2.0, 1.7]
    mean, low, high = mean_and_interval(values)
    assert mean == pytest.approx(1.475)
    assert (low, high) == pytest.approx(students_t(values))


def test_one_training_has_no_interval():
    mean, *ends = mean_and_interval([3.0])
    assert mean == 3
    assert np.isnan(ends).all()


def test_trainings_are_found_in_the_order_of_the_table():
    table = concatenated(trainings(config="H"), trainings(config="A"))
    groups = by_training(table)
    assert {config: list(of_config) for config, of_config in groups.items()} == {
        "H": [0, 1, 5],
        "A": [0, 1, 5],
    }
    assert list(groups) == ["H", "A"]
    assert set(groups["A"][5]["value"]) == {3.5, 2.0, 2.5, 35.0, 20.0, 25.0}


def test_the_mean_curve_has_a_point_where_all_trainings_have_one():
    """At 0.1: 1, 1.6 and 2; the fourth length is only one training's."""
    extra = network_rows((0.5,), (0.3,), training_seed=1)
    curve = mean_curve(ema_curve(concatenated(trainings(), extra)), "ema_length")
    assert curve["ema_length"].tolist() == [0.05, 0.1, 0.2]
    assert curve["value"].tolist() == pytest.approx([3.5, 4.6 / 3, 5.7 / 3])
    assert curve["trainings"].tolist() == [3, 3, 3]
    middle = curve.iloc[1]
    assert (middle["low"], middle["high"]) == pytest.approx(students_t([1.0, 1.6, 2.0]))


def test_the_ablation_has_the_mean_of_each_ones_best():
    table = ablation_table(concatenated(trainings(), network_rows((2.0, 0.5, 1.0), config="A")))
    row = table.set_index("config").loc["G"]
    assert row["ours: fd_classifier_1k"] == pytest.approx(4.2 / 3)
    assert row["ours: 95 % interval"] == in_words(OWN_BEST)
    assert row["ours: trainings"] == 3
    assert row["ours: each training"] == "1, 1.2, 2"
    assert row["ours: EMA length"] == pytest.approx(0.4 / 3)
    assert row["ours: each EMA length"] == "0.1, 0.2, 0.1"
    assert row["ours: at edge of grid"] == "1 of 3"
    assert table.set_index("config").loc["A"]["ours: fd_classifier_1k"] == 0.5


def test_values_on_fresh_seeds_are_means_only_if_all_trainings_have_them():
    def fresh(seed, value, length):
        return network_rows((value,), (length,), training_seed=seed, seeds="fresh", first_seed=1000)

    some = concatenated(trainings(), fresh(0, 1.3, 0.1), fresh(1, 1.5, 0.2))
    assert best_networks(by_training(some)["G"])["fresh"].isna().tolist() == [False, False, True]
    (row,) = ablation_table(some).to_dict("records")
    assert row["ours: valued on"] == "fresh seeds, the same images"
    (row,) = ablation_table(concatenated(some, fresh(5, 2.3, 0.1))).to_dict("records")
    assert row["ours: valued on"] == "fresh seeds"
    assert row["ours: fd_classifier_1k"] == pytest.approx((1.3 + 1.5 + 2.3) / 3)
    assert row["ours: where it was chosen"] == pytest.approx(4.2 / 3)


def test_baselines_have_the_mean_of_the_best_networks():
    """At 200 samples the values are ten times those of 1000."""
    table = baseline_table(trainings(), {"held_out/fd_classifier_200": 5.0})
    assert table["value"].tolist() == pytest.approx([5.0, 14.0])
    assert table["each training"].tolist()[1] == "10, 12, 20"
    assert "each training" in table["images"][1]
    single = baseline_table(network_rows((2.0, 1.0, 3.0)), {"held_out/fd_classifier_200": 5.0})
    assert list(single) == ["images", "metric", "value"]


def test_minima_are_means_over_trainings():
    early = trainings(nimg=500).assign(value=lambda rows: rows["value"] + 1)
    table = minima(time_curves(concatenated(trainings(), early)), "nimg").set_index("nimg")
    assert table["best"].to_dict() == pytest.approx({1000: 1.4, 500: 2.4})
    assert table.loc[1000, "95 % interval"] == in_words(OWN_BEST)
    assert table.loc[1000, "each EMA length"] == "0.1, 0.2, 0.1"
    assert table.loc[1000, "at edge of grid"] == "1 of 3"


def test_without_unguided_networks_all_trainings_have_one_guidance_strength():
    """Training 0 alone is best at w = 2, the mean at w = 3."""
    table = concatenated(
        network_rows((3.0, 1.0, 3.0), guidance=2.0),
        network_rows((3.0, 5.0, 3.0), guidance=2.0, training_seed=1),
        network_rows((3.0, 1.5, 3.0), guidance=3.0),
        network_rows((3.0, 2.0, 3.0), guidance=3.0, training_seed=1),
    )
    assert set(ema_curve(table)["guidance"]) == {3.0}
    assert guidance_curves(table)["guidance"].nunique() == 2


def layer(spec, kind, **mark):
    """Rows of the one layer with such a mark."""
    (found,) = (
        layer["data"]["values"]
        for layer in spec["layer"]
        if layer["mark"].items() >= {"type": kind, **mark}.items()
    )
    return found


def values(rows):
    return [row["value"] for row in rows]


def test_a_figure_has_each_training_their_mean_and_its_interval():
    spec = ema_curves_chart(trainings())
    strong, thin = (layer(spec, "line", strokeWidth=width) for width in (2.2, 0.8))
    assert values(strong) == pytest.approx([3.5, 4.6 / 3, 5.7 / 3], rel=1e-4)
    (minimum,) = layer(spec, "point", size=190)
    assert (minimum["ema_length"], minimum["value"]) == pytest.approx((0.1, 4.6 / 3), rel=1e-4)
    drawn = [[row["value"] for row in thin if row["training"] == seed] for seed in CURVES]
    assert drawn == [list(curve) for curve in CURVES.values()]
    (edges,) = (row for row in layer(spec, "area") if row["ema_length"] == 0.1)
    low, high = students_t([1.0, 1.6, 2.0])
    assert (edges["low"], edges["high"]) == pytest.approx((low, high), rel=1e-4)
    (label,) = spec["encoding"]["color"]["scale"]["domain"]
    assert label == f"config G: 1.53 [{low:.3g}, {high:.3g}] at 0.1"


def test_a_figure_of_one_training_has_one_line_without_a_band():
    spec = ema_curves_chart(network_rows((3.0, 1.0, 2.0)))
    assert values(layer(spec, "line")) == [3.0, 1.0, 2.0]
    assert values(layer(spec, "point", size=190)) == [1.0]
    assert spec["encoding"]["color"]["scale"]["domain"] == ["config G: 1 at 0.1"]
    assert not [layer for layer in spec["layer"] if layer["mark"]["type"] == "area"]


def test_wide_bands_do_not_flatten_the_lines():
    """With two trainings, Student's t is 12.7: the band of these reaches from below 0 to 7."""
    spec = ema_curves_chart(trainings().query("training_seed < 2"))
    bottom, top = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0.2 < bottom < 1
    assert 4 < top <= 17


def test_trainings_without_a_common_length_have_their_lines():
    table = concatenated(
        network_rows((1.0, 2.0), (0.1, 0.2)),
        network_rows((3.0, 4.0), (0.11, 0.21), training_seed=1),
    )
    spec = ema_curves_chart(table)
    assert values(layer(spec, "line", strokeWidth=0.8)) == [1.0, 2.0, 3.0, 4.0]
    assert len(spec["layer"]) == 1
    assert "without a common EMA length" in spec["encoding"]["color"]["scale"]["domain"][0]


def test_the_figure_has_a_curve_per_config():
    spec = ema_curves_chart(concatenated(trainings(config="A"), trainings()))
    labels = spec["encoding"]["color"]["scale"]["domain"]
    assert [label.partition(":")[0] for label in labels] == ["config A", "config G"]


def test_means_have_a_row_per_config_and_length():
    means = curve_means(ema_curve(concatenated(trainings(config="A"), trainings())))
    assert means["config"].tolist() == ["A"] * 3 + ["G"] * 3
    assert set(means["metric"]) == {"fd_classifier_1k"}


def test_a_mean_over_trainings_hides_no_value_that_is_not_finite():
    losses = ([4.0, 2.0], [np.nan, 1.0])
    tables = [pd.DataFrame({"nimg": [500, 1000], "train/loss": loss}) for loss in losses]
    mean = mean_over_trainings(dict(enumerate(tables)))
    assert mean["train/loss"].isna().tolist() == [True, False]
