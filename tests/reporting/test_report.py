"""Tables, curves and the page."""

import pandas as pd
import pytest
import torch
from PIL import Image

from edm2.reporting.curves import best_of, draw_ema_curves, main_metric, metrics_of
from edm2.reporting.grids import draw_grid, write_class_grid
from edm2.reporting.page import paragraph, render
from edm2.reporting.tables import (
    ablation_table,
    as_markdown,
    baseline_table,
    ema_table,
    paper_configs,
)


def networks(config="G", values=(3.0, 1.0, 2.0), lengths=(0.05, 0.1, 0.2)):
    """Two metrics: of 1000 samples, and of 200 with values ten times as large."""
    rows = [
        {
            "config": config,
            "ema_length": s,
            "nimg": 1000,
            "metric": name,
            "value": v * scale,
            "detector": "classifier",
            "samples": count,
            "average": "power",
            "error": 0.01,
            "weight_sum": 1.0,
            "snapshots": 8,
            "first_seed": 0,
            "tensors": "all",
            "seeds": "sweep",
            "guidance": 1.0,
            "singular": False,
            "standard_error": None,
            "reference": 1500,
            "network": f"{1000:012d}-ema_length-{s!r}",
        }
        for s, v in zip(lengths, values, strict=True)
        for name, count, scale in (("fd_classifier_1k", 1000, 1), ("fd_classifier_200", 200, 10))
    ]
    return pd.DataFrame(rows)


def test_the_best_is_the_lowest_of_the_metric_with_most_samples():
    best = best_of(networks())
    assert (best["metric"], best["value"], best["ema_length"]) == ("fd_classifier_1k", 1.0, 0.1)
    assert not best["at_edge"]


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (3.0, 2.0, 1.0)])
def test_a_minimum_at_the_edge_is_said(values, tmp_path):
    assert best_of(networks(values=values))["at_edge"]
    draw_ema_curves(networks(values=values), tmp_path / "curve.svg")
    assert ablation_table(networks(values=values))["ours: at edge of grid"].tolist() == ["yes"]


def test_a_curve_never_mixes_metrics():
    assert set(main_metric(networks())["metric"]) == {"fd_classifier_1k"}


def with_others():
    """Beside the two Fréchet distances: a kernel distance with its error, at both counts, and a
    precision without, of other order and larger than them.
    """
    more = []
    for name, error in (("kid", 0.5), ("precision", None)):
        rows = networks(values=(30.0, 20.0, 10.0))
        rows["metric"] = rows["metric"].str.replace("fd", name)
        rows["standard_error"] = error
        more.append(rows)
    return pd.concat([*more, networks()], ignore_index=True)


def test_the_curve_is_that_of_the_frechet_distance_whatever_else_was_measured():
    found, alone = (main_metric(t).reset_index(drop=True) for t in (with_others(), networks()))
    pd.testing.assert_frame_equal(found, alone, check_dtype=False)
    fid = networks().replace({"metric": {"fd_classifier_1k": "fid_1k"}})
    assert main_metric(fid)["metric"].unique().tolist() == ["fid_1k"]
    assert best_of(with_others())["ema_length"] == 0.1


def test_all_measures_of_a_network_by_name():
    table = with_others()
    assert metrics_of(table, best_of(table)) == {
        "fd_classifier_1k": 1.0,
        "kid_classifier_1k": 20.0,
        "precision_classifier_1k": 20.0,
    }


def test_the_table_of_networks_has_a_column_per_other_measure_of_the_same_count():
    plain, table = ema_table(networks()), ema_table(with_others())
    added = ["kid_classifier_1k", "kid_classifier_1k: standard error", "precision_classifier_1k"]
    assert table.columns.tolist() == [*plain.columns, *added]
    pd.testing.assert_frame_equal(table[plain.columns], plain, check_dtype=False)
    assert table[added[0]].tolist() == table[added[2]].tolist() == [30.0, 20.0, 10.0]
    assert table[added[1]].tolist() == [0.5] * 3


def test_the_ablation_names_detector_and_count_of_both_sides():
    table = ablation_table(pd.concat([networks("A"), networks("G", values=(2.0, 0.5, 1.0))]))
    assert table["config"].tolist() == ["A", "G"]
    assert table["ours: fd_classifier_1k"].tolist() == [1.0, 0.5]
    assert table["paper, ImageNet-512: fid_50k"].tolist() == [8.00, 2.56]  # EDM2 Table 1
    assert table["paper, ImageNet-512: EMA length"].tolist() == [0.034, 0.13]


def test_the_papers_table_falls_from_a_to_g():
    fid = paper_configs()["fid"]
    assert list(fid.index) == list("ABCDEFG")
    assert fid.is_monotonic_decreasing


def test_baselines_share_one_metric():
    for name in ("fd_classifier_200", "fid_200", "fd_dinov2_200"):
        table = networks().replace({"metric": {"fd_classifier_200": name}})
        found = baseline_table(table, {f"held_out/{name}": 5.0, f"reconstructions/{name}": 6.0})
        assert set(found["metric"]) == {name}
        assert found["value"].tolist() == [5.0, 6.0, 10.0]  # the last: the best network's, at 200


def test_without_held_out_distances_there_are_no_baselines():
    assert baseline_table(networks(), {}).empty


def test_markdown_has_a_line_per_row():
    text = as_markdown(pd.DataFrame({"a": [1, 2], "b": [0.123456, 2.0]}))
    assert text == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n| 2 | 2 |\n"


def test_the_page_escapes_what_it_is_given():
    page = render("a < b", [("x & y", paragraph("<script>"))])
    assert "a &lt; b" in page
    assert "x &amp; y" in page
    assert "<script>" not in page


def test_a_class_grid_has_a_row_per_class(tmp_path):
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    images = colors.repeat(2, 1)[:, :, None, None].expand(-1, -1, 8, 8)  # classes in turn
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    write_class_grid(tmp_path / "grid.png", images, labels, ["r", "g", "b"])
    grid = Image.open(tmp_path / "grid.png")
    cell = grid.height // 3
    for row, color in enumerate(colors.tolist()):
        for column in (1, 2):
            x = grid.width - (column - 0.5) * cell
            assert grid.getpixel((int(x), int((row + 0.5) * cell))) == tuple(color)


def test_rows_of_a_class_grid_follow_the_labels(tmp_path):
    dark, bright = (torch.full((1, 3, 8, 8), value, dtype=torch.uint8) for value in (0, 255))
    images, labels = torch.cat([bright, dark]), torch.tensor([2, 1])
    write_class_grid(tmp_path / "grid.png", images, labels, ["a", "b", "c"])
    grid = Image.open(tmp_path / "grid.png")
    right = grid.width - 20
    assert [grid.getpixel((right, y))[0] for y in (20, grid.height - 20)] == [0, 255]


def test_small_images_are_enlarged_by_whole_factors():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[..., 0, 0] = 255
    canvas = draw_grid([image], ["label"])
    white = [
        (x, y)
        for x in range(canvas.width)
        for y in range(canvas.height)
        if canvas.getpixel((x, y)) == (0, 0, 0)
    ]
    assert len(white) >= 48 * 48 - 9  # 16 pixels by a factor of 3, less the bright one
