"""Curves over training time and over single tensors, and numbers on fresh seeds."""

import pandas as pd
import pytest
from PIL import Image

from edm2.reporting.curves import best_of, confirmed, draw_ema_curves, ema_curve
from edm2.reporting.sweeps import draw_curves, minima, tensor_curves, time_curves
from edm2.reporting.tables import ablation_table, baseline_table, ema_table

LENGTHS = (0.05, 0.1, 0.2)


def curve(values, config="G", nimg=1000, tensors="all", seeds="sweep", lengths=LENGTHS):
    """Two metrics: of 1000 samples, and of 200 with values ten times as large."""
    return pd.DataFrame(
        [
            {
                "config": config,
                "network": f"{nimg}-{tensors}-{length}",
                "ema_length": length,
                "nimg": nimg,
                "tensors": tensors,
                "seeds": seeds,
                "guidance": 1.0,
                "average": "power",
                "error": 0.01,
                "singular": False,
                "reference": 1500,
                "weight_sum": 1.0,
                "snapshots": 8,
                "metric": f"fd_classifier_{name}",
                "value": value * scale,
                "detector": "classifier",
                "samples": samples,
                "first_seed": 0 if seeds == "sweep" else 1000,
            }
            for length, value in zip(lengths, values, strict=True)
            for name, samples, scale in (("1k", 1000, 1), ("200", 200, 10))
        ]
    )


def together(*parts):
    return pd.concat(parts, ignore_index=True)


EARLY = curve((2.0, 3.0, 4.0), nimg=500)
END = curve((3.0, 1.0, 2.0))
AFFINE = curve((1.5, 0.5, 0.75), tensors="*-affine")
FRESH = curve((0.25,), seeds="fresh", lengths=(0.1,))
ALL = together(EARLY, END, AFFINE, FRESH)


def test_one_time_alone_is_no_sweep_over_times():
    assert time_curves(together(END, AFFINE, FRESH)).empty
    assert tensor_curves(together(EARLY, END, FRESH)).empty


def test_times_of_two_configs_are_no_sweep_of_either():
    assert time_curves(together(END, curve((1.0, 2.0, 3.0), "A", 500))).empty
    swept = time_curves(together(END, EARLY, curve((1.0, 2.0, 3.0), "A")))
    assert set(swept["config"]) == {"G"}


def test_curves_over_time_are_those_of_whole_networks():
    rows = time_curves(ALL)
    assert set(rows["metric"]) == {"fd_classifier_1k"}
    assert sorted(rows["value"]) == [1.0, 2.0, 2.0, 3.0, 3.0, 4.0]


def test_curves_over_tensors_stand_beside_that_of_all_at_the_end():
    rows = tensor_curves(together(ALL, curve((9.0, 9.0, 9.0), "A")))
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


def test_both_ends_are_edges():
    table = together(curve((1.0, 2.0, 3.0), nimg=1), curve((3.0, 2.0, 1.0), nimg=2))
    assert minima(time_curves(table), "nimg")["at edge of grid"].tolist() == ["yes", "yes"]


def test_configs_keep_their_own_minima():
    table = together(ALL, EARLY.assign(config="A"), END.assign(config="A", value=5.0))
    found = minima(time_curves(table), "nimg").set_index(["config", "nimg"])["best"]
    assert found.to_dict() == {("G", 500): 2.0, ("G", 1000): 1.0, ("A", 500): 2.0, ("A", 1000): 5.0}


def test_of_no_curves_there_are_no_minima():
    assert minima(time_curves(END), "nimg").empty


@pytest.mark.parametrize(("by", "curves"), [("nimg", time_curves), ("tensors", tensor_curves)])
def test_pictures_have_a_panel_per_config(tmp_path, by, curves):
    one, two = tmp_path / "deep/one.png", tmp_path / "two.png"
    draw_curves(curves(ALL), by, one)
    draw_curves(curves(together(ALL, ALL.assign(config="A"))), by, two)
    with Image.open(one) as single, Image.open(two) as double:
        assert single.width == double.width > 800
        assert 1.5 < double.height / single.height < 2


def test_the_ema_curve_is_of_whole_networks_at_the_end_and_the_sweeps_seeds():
    assert ema_curve(ALL)["value"].tolist() == [3.0, 1.0, 2.0]
    best = best_of(ALL)
    assert (best["value"], best["ema_length"], best["at_edge"]) == (1.0, 0.1, False)


def test_a_config_trained_for_less_keeps_its_curve(tmp_path):
    """Each config's end is its own: diffusion.per_config may shorten a training."""
    rows = ema_curve(together(END, curve((6.0, 5.0, 7.0), "A", 500)))
    assert rows["config"].tolist() == ["A"] * 3 + ["G"] * 3


def test_tensors_of_a_config_trained_for_less_stand_beside_its_whole_networks():
    short = together(curve((6.0, 5.0, 7.0), "A", 500), curve((6.0, 4.0, 7.0), "A", 500, "*-affine"))
    rows = tensor_curves(together(END, short))
    assert rows["tensors"].tolist() == ["all"] * 3 + ["*-affine"] * 3


def test_the_number_on_fresh_seeds_is_beside_that_of_the_sweep():
    fresh = confirmed(ALL, best_of(ALL))
    assert fresh is not None
    assert (fresh["value"], fresh["metric"]) == (0.25, "fd_classifier_1k")
    assert confirmed(together(EARLY, END), best_of(END)) is None
    other = curve((4.0, 2.0, 3.0), "A")
    row = ablation_table(together(ALL, other)).set_index("config")
    assert row["ours: fd_classifier_1k"].to_dict() == {"A": 2.0, "G": 1.0}
    assert row["ours: on fresh seeds"].dropna().to_dict() == {"G": 0.25}


def test_baselines_take_the_number_of_the_sweep():
    table = baseline_table(ALL, {"held_out/fd_classifier_200": 5.0})
    assert table["value"].tolist() == [5.0, 10.0]


def test_the_table_of_networks_has_all_rows_of_the_metric():
    table = ema_table(ALL)
    assert len(table) == 10
    assert table["seeds"].tolist() == ["sweep"] * 9 + ["fresh"]
    assert set(table["metric"]) == {"fd_classifier_1k"}


def test_other_rows_leave_the_ema_curves_alone(tmp_path):
    for name, rows in (("all", ALL), ("end", END)):
        draw_ema_curves(rows, tmp_path / f"{name}.png")
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "end.png").read_bytes()


def test_a_curve_of_one_point_has_no_edge():
    """As those of traditional averages are; `best_of` says the same."""
    table = together(*(curve((1.0,), "A", nimg, lengths=(0.07,)) for nimg in (500, 1000)))
    assert not best_of(table)["at_edge"]
    assert minima(time_curves(table), "nimg")["at edge of grid"].tolist() == ["no", "no"]
