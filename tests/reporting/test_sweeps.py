"""Curves over training time, single tensors and guidance strength, and values on fresh seeds."""

import pytest
from network_rows import concatenated, network_rows

from edm2.reporting.charts import static_svg
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.selection import best_of, ema_curve, fresh_seeds_row
from edm2.reporting.sweeps import (
    guidance_curves,
    heat_maps,
    minima,
    sweep_panels,
    tensor_curves,
    time_curves,
)
from edm2.reporting.tables import ablation_table, baseline_table, networks_table

EARLY = network_rows((2.0, 3.0, 4.0), nimg=500)
END = network_rows((3.0, 1.0, 2.0))
AFFINE = network_rows((1.5, 0.5, 0.75), tensors="*-affine")
FRESH = network_rows((0.25,), (0.1,), seeds="fresh", first_seed=1000)
ALL = concatenated(EARLY, END, AFFINE, FRESH)
GUIDED = network_rows((3.0, 2.0, 0.5), guidance=2.0)


def test_a_single_value_is_no_sweep():
    assert time_curves(concatenated(END, AFFINE, FRESH)).empty
    assert tensor_curves(concatenated(EARLY, END, FRESH)).empty
    assert guidance_curves(ALL).empty


def test_different_times_of_two_configs_are_no_sweep():
    other = network_rows((1.0, 2.0, 3.0), config="A", nimg=500)
    assert time_curves(concatenated(END, other)).empty
    swept = time_curves(concatenated(END, EARLY, network_rows((1.0, 2.0, 3.0), config="A")))
    assert set(swept["config"]) == {"G"}


def test_curves_over_time_are_those_of_uniform_networks():
    rows = time_curves(ALL)
    assert set(rows["metric"]) == {"fd_classifier_1k"}
    assert sorted(rows["value"]) == [1.0, 2.0, 2.0, 3.0, 3.0, 4.0]


def test_curves_over_tensors_follow_that_of_all_tensors_at_the_end():
    rows = tensor_curves(concatenated(ALL, network_rows((9.0, 9.0, 9.0), config="A")))
    assert rows["tensors"].tolist() == ["all"] * 3 + ["*-affine"] * 3
    assert rows["value"].tolist() == [3.0, 1.0, 2.0, 1.5, 0.5, 0.75]
    assert set(rows["config"]) == {"G"}


def test_minima_are_those_of_each_curve():
    times = minima(time_curves(ALL), "nimg").set_index("nimg")
    assert times["best"].to_dict() == {500: 2.0, 1000: 1.0}
    assert times["EMA length"].to_dict() == {500: 0.05, 1000: 0.1}
    assert times["at edge of grid"].to_dict() == {500: "yes", 1000: "no"}
    tensors = minima(tensor_curves(ALL), "tensors")
    assert tensors["tensors"].tolist() == ["all", "*-affine"]
    assert tensors["best"].tolist() == [1.0, 0.5]
    guidance = minima(guidance_curves(concatenated(ALL, GUIDED)), "guidance")
    assert guidance["guidance"].tolist() == [1.0, 2.0]
    assert guidance["best"].tolist() == [1.0, 0.5]


def test_both_ends_are_edges():
    table = concatenated(
        network_rows((1.0, 2.0, 3.0), nimg=1), network_rows((3.0, 2.0, 1.0), nimg=2)
    )
    assert minima(time_curves(table), "nimg")["at edge of grid"].tolist() == ["yes", "yes"]


def test_each_config_has_its_own_minima():
    table = concatenated(ALL, EARLY.assign(config="A"), END.assign(config="A", value=5.0))
    best = minima(time_curves(table), "nimg").set_index(["config", "nimg"])["best"]
    assert best.to_dict() == {("G", 500): 2.0, ("G", 1000): 1.0, ("A", 500): 2.0, ("A", 1000): 5.0}


def test_without_curves_there_are_no_minima():
    assert minima(time_curves(END), "nimg").empty


def legend(spec):
    return spec["encoding"]["color"]["scale"]["domain"]


def scheme(spec):
    return spec["encoding"]["color"]["scale"].get("scheme", {}).get("name")


def test_figures_have_a_chart_per_config_and_a_curve_per_value():
    """Times and strengths have ordered colors, in ascending order; groups of tensors have not."""
    both = concatenated(END, EARLY, AFFINE, GUIDED)
    both = concatenated(both, both.assign(config="A"))
    for by, curves, names, colors in (
        ("nimg", time_curves, ["0.5 thousand images", "1 thousand images"], "viridis"),
        ("guidance", guidance_curves, ["w = 1", "w = 2"], "viridis"),
        ("tensors", tensor_curves, ["*-affine", "all"], None),
    ):
        charts = sweep_panels(curves(both), by)
        assert {spec["title"] for spec in charts} == {"Config A", "Config G"}
        for spec in charts:
            assert sorted(label.partition(":")[0] for label in legend(spec)) == names
            assert scheme(spec) == colors
    ordered = legend(sweep_panels(time_curves(both), "nimg")[0])
    assert [label.partition(":")[0] for label in ordered] == [
        "0.5 thousand images",
        "1 thousand images",
    ]


def test_the_heat_map_has_a_cell_per_network_and_circles_the_minimum():
    table = concatenated(END, GUIDED)
    one, two = heat_maps(guidance_curves(concatenated(table, table.assign(config="A"))))
    assert [one["title"], two["title"]] == [
        f"Config {config}: 0.5 at EMA length 0.2, w = 2" for config in "GA"
    ]
    cells, circle = (layer["data"]["values"] for layer in one["layer"])
    assert {(row["ema_length"], row["guidance"]): row["value"] for row in cells} == {
        (0.05, 1.0): 3.0,
        (0.1, 1.0): 1.0,
        (0.2, 1.0): 2.0,
        (0.05, 2.0): 3.0,
        (0.1, 2.0): 2.0,
        (0.2, 2.0): 0.5,
    }
    assert [(row["ema_length"], row["guidance"]) for row in circle] == [(0.2, 2.0)]


@pytest.mark.slow
def test_the_heat_map_is_drawn():
    svg = static_svg(heat_maps(guidance_curves(concatenated(END, GUIDED)))[0])
    for text in ("EMA length", "guidance strength", "fd_classifier_1k"):
        assert text in svg


def test_trainings_without_a_common_network_have_no_heat_map():
    other = network_rows((3.0, 2.0), (0.3, 0.4), training_seed=1)
    table = concatenated(END, GUIDED, other, other.assign(guidance=2.0))
    (spec,) = heat_maps(guidance_curves(table))
    assert "without a common network" in spec["data"]["values"][0]["text"]


def test_the_ema_curve_is_of_uniform_networks_at_the_end_on_the_sweeps_seeds():
    assert ema_curve(ALL)["value"].tolist() == [3.0, 1.0, 2.0]
    best = best_of(ALL)
    assert (best["curve_value"], best["ema_length"], best["at_edge"]) == (1.0, 0.1, False)


def test_a_shorter_training_keeps_its_curve():
    """Each config has a final time of its own: diffusion.per_config may shorten a training."""
    rows = ema_curve(concatenated(END, network_rows((6.0, 5.0, 7.0), config="A", nimg=500)))
    assert rows["config"].tolist() == ["A"] * 3 + ["G"] * 3


def test_a_shorter_training_keeps_its_curves_over_tensors():
    short = {"config": "A", "nimg": 500}
    uniform = network_rows((6.0, 5.0, 7.0), **short)
    affine = network_rows((6.0, 4.0, 7.0), tensors="*-affine", **short)
    rows = tensor_curves(concatenated(END, uniform, affine))
    assert rows["tensors"].tolist() == ["all"] * 3 + ["*-affine"] * 3


def test_the_value_on_fresh_seeds_is_beside_that_of_the_sweep():
    fresh = fresh_seeds_row(ALL, best_of(ALL))
    assert fresh is not None
    assert (fresh["value"], fresh["metric"]) == (0.25, "fd_classifier_1k")
    assert fresh_seeds_row(concatenated(EARLY, END), best_of(END)) is None
    other = network_rows((4.0, 2.0, 3.0), config="A")
    row = ablation_table(concatenated(ALL, other)).set_index("config")
    assert row["ours: fd_classifier_1k"].to_dict() == {"A": 2.0, "G": 0.25}
    assert row["ours: where it was chosen"].dropna().to_dict() == {"G": 1.0}


def test_baselines_have_the_value_on_fresh_seeds():
    """Those of the sweep that chose the network are too low."""
    table = baseline_table(ALL, {"held_out/fd_classifier_200": 5.0})
    assert table["value"].tolist() == [5.0, 2.5]


def test_the_table_of_networks_has_all_rows_of_the_metric():
    table = networks_table(ALL)
    assert len(table) == 10
    assert table["seeds"].tolist() == ["sweep"] * 9 + ["fresh"]
    assert set(table["metric"]) == {"fd_classifier_1k"}


def test_other_rows_do_not_change_the_ema_curves():
    assert ema_curves_chart(ALL) == ema_curves_chart(END)


def test_a_curve_of_one_point_has_no_edge():
    """Such as that of a traditional average."""
    points = [network_rows((1.0,), (0.07,), config="A", nimg=nimg) for nimg in (500, 1000)]
    table = concatenated(*points)
    assert not best_of(table)["at_edge"]
    assert minima(time_curves(table), "nimg")["at edge of grid"].tolist() == ["no", "no"]
