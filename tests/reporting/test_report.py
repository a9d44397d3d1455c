"""Tables, curves and the page."""

import numpy as np
import pandas as pd
import pytest
import torch
from network_rows import concatenated, network_rows
from PIL import Image

from edm2.reporting.curves import draw_ema_curves
from edm2.reporting.grids import draw_grid, write_class_grid
from edm2.reporting.page import paragraph, render
from edm2.reporting.page import table as html_table
from edm2.reporting.selection import (
    best_of,
    main_metric,
    metrics_of,
)
from edm2.reporting.tables import (
    ablation_table,
    as_markdown,
    baseline_table,
    networks_table,
    paper_configs,
)

PAPER_COLUMNS = ["name", "paper, ImageNet-512: fid_50k", "paper, ImageNet-512: EMA length"]
CURVE = network_rows((3.0, 1.0, 2.0))


def test_the_best_is_the_lowest_of_the_metric_with_most_samples():
    best = best_of(CURVE)
    assert (best["metric"], best["value"], best["ema_length"]) == ("fd_classifier_1k", 1.0, 0.1)
    assert not best["at_edge"]


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (3.0, 2.0, 1.0)])
def test_a_minimum_at_the_edge_is_marked(values, tmp_path):
    table = network_rows(values)
    assert best_of(table)["at_edge"]
    draw_ema_curves(table, tmp_path / "curve.svg")
    assert ablation_table(table)["ours: at edge of grid"].tolist() == ["yes"]


def test_a_curve_never_mixes_metrics():
    assert set(main_metric(CURVE)["metric"]) == {"fd_classifier_1k"}


def with_other_metrics():
    """Beside the two Fréchet distances: a kernel distance with its error, at both counts, and a
    precision without. Their values are larger and in another order.
    """
    others = []
    for name, error in (("kid", 0.5), ("precision", None)):
        rows = network_rows((30.0, 20.0, 10.0), standard_error=error)
        rows["metric"] = rows["metric"].str.replace("fd", name)
        others.append(rows)
    return concatenated(*others, CURVE)


def test_the_curve_is_that_of_the_frechet_distance():
    """Other metrics of the same networks leave it as it is."""
    rows, expected = (main_metric(t).reset_index(drop=True) for t in (with_other_metrics(), CURVE))
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False)
    fid = CURVE.replace({"metric": {"fd_classifier_1k": "fid_1k"}})
    assert main_metric(fid)["metric"].unique().tolist() == ["fid_1k"]
    assert best_of(with_other_metrics())["ema_length"] == 0.1


def test_all_metrics_of_a_network_by_name():
    table = with_other_metrics()
    assert metrics_of(table, best_of(table)) == {
        "fd_classifier_1k": 1.0,
        "kid_classifier_1k": 20.0,
        "precision_classifier_1k": 20.0,
    }


def test_the_table_of_networks_has_a_column_per_other_metric_of_the_same_count():
    plain, table = networks_table(CURVE), networks_table(with_other_metrics())
    added = ["kid_classifier_1k", "kid_classifier_1k: standard error", "precision_classifier_1k"]
    assert table.columns.tolist() == [*plain.columns, *added]
    pd.testing.assert_frame_equal(table[plain.columns], plain, check_dtype=False)
    assert table[added[0]].tolist() == table[added[2]].tolist() == [30.0, 20.0, 10.0]
    assert table[added[1]].tolist() == [0.5] * 3


def test_the_distance_at_infinitely_many_samples_is_another_metric():
    """It has a column of its own, even where it is lower."""
    rows = CURVE[CURVE["samples"] == 1000]
    infinite = rows.assign(metric="fd_classifier_inf", value=[-1.0, 0.0, 1.0], standard_error=0.5)
    table = concatenated(infinite, CURVE)
    assert main_metric(table)["metric"].unique().tolist() == ["fd_classifier_1k"]
    found = networks_table(table)
    assert found["fd_classifier_inf"].tolist() == [-1.0, 0.0, 1.0]
    assert found["fd_classifier_inf: standard error"].tolist() == [0.5] * 3


def test_several_seed_blocks_have_statistics_of_their_own():
    """The mean of 4 and 2 counts, which is 3; their standard deviation is √2."""
    blocks = [network_rows((v,), (0.1,), first_seed=1000 * k) for k, v in enumerate((4.0, 2.0))]
    table = concatenated(*blocks)
    (row,) = networks_table(table).to_dict("records")
    assert (row["value"], row["first_seed"], row["seed_blocks"]) == (3.0, 0, 2)
    assert (row["lowest of 2 seed blocks"], row["std"]) == pytest.approx((2, 2**0.5))
    (ours,) = ablation_table(table).to_dict("records")
    assert ours["ours: fd_classifier_1k"] == pytest.approx(3)
    assert ours["ours: std over 2 seed blocks"] == pytest.approx(2**0.5)
    assert ours["ours: lowest of 2 seed blocks"] == 2
    assert not {"seed_blocks", "std"} & set(networks_table(CURVE))


def test_other_metrics_are_means_over_seed_blocks():
    """Errors of 3 and 4, of independent images, make one of 2.5 in the mean."""
    blocks = [
        concatenated(
            network_rows((2.0,), (0.1,), first_seed=k),
            network_rows((value,), (0.1,), first_seed=k, standard_error=error).replace(
                {"metric": {"fd_classifier_1k": "kid_classifier_1k"}}
            ),
        )
        for k, value, error in ((0, 1.0, 3.0), (1000, 2.0, 4.0))
    ]
    table = concatenated(*blocks)
    (row,) = networks_table(table).to_dict("records")
    assert row["kid_classifier_1k"] == 1.5
    assert row["kid_classifier_1k: standard error"] == pytest.approx(2.5)
    assert metrics_of(table, best_of(table))["kid_classifier_1k"] == 1.5


def test_a_length_is_chosen_on_the_other_seed_blocks():
    """Block 0 chooses 0.1, whose value in block 1 is 8; block 1 chooses 0.2: 3 in block 0. The curve's
    minimum is at 0.2: (3 + 2) / 2. The lowest value of all is that of block 0 at 0.1.
    """
    table = concatenated(
        network_rows((4.0, 1.0, 3.0)), network_rows((2.2, 8.0, 2.0), first_seed=1000)
    )
    best = best_of(table)
    assert (best["ema_length"], best["curve_value"]) == (0.2, 2.5)
    assert best["value"] == (8 + 3) / 2
    assert best["valued_on"] == "other seed blocks"
    assert best["lowest"] == 1
    assert metrics_of(table, best) == {"fd_classifier_1k": 5.5}
    smaller = baseline_table(table, {"held_out/fd_classifier_200": 5.0})
    assert smaller["value"].tolist() == [5.0, 55.0]
    (row,) = ablation_table(table).to_dict("records")
    assert row["ours: fd_classifier_1k"] == 5.5
    assert row["ours: where it was chosen"] == 2.5


def test_with_one_seed_block_the_value_is_that_on_fresh_seeds():
    fresh = CURVE[CURVE["ema_length"] == 0.1].assign(seeds="fresh", first_seed=1000)
    table = concatenated(CURVE, fresh.assign(value=fresh["value"] * 1.5))
    best = best_of(table)
    assert (best["value"], best["curve_value"], best["valued_on"]) == (1.5, 1.0, "fresh seeds")
    assert metrics_of(table, best) == {"fd_classifier_1k": 1.5}
    (row,) = ablation_table(table).to_dict("records")
    assert row["ours: fd_classifier_1k"] == 1.5
    assert (row["ours: valued on"], row["ours: where it was chosen"]) == ("fresh seeds", 1.0)
    (row,) = ablation_table(CURVE).to_dict("records")
    assert row["ours: valued on"] == "the same images"
    assert "ours: where it was chosen" not in row


def test_a_chosen_network_is_not_valued_too_low():
    """Of 40 curves of 20 equal lengths with noise, the mean minimum is far below their true value of 2, on
    the same images; the values are not, within three standard errors.
    """
    rng = np.random.default_rng(0)
    lengths = np.linspace(0.02, 0.25, 20).tolist()
    found = [
        best_of(
            concatenated(
                *(network_rows(v, lengths, first_seed=k) for k, v in enumerate(curves.tolist()))
            )
        )
        for curves in rng.normal(2, 0.1, (40, 3, 20))
    ]
    values, on_curve = (np.array([row[key] for row in found]) for key in ("value", "curve_value"))
    assert abs(values.mean() - 2) < 3 * values.std() / np.sqrt(40)
    assert on_curve.mean() < 1.92


def test_the_ablation_names_detector_and_count_of_both_sides():
    table = ablation_table(
        concatenated(network_rows((3.0, 1.0, 2.0), config="A"), network_rows((2.0, 0.5, 1.0)))
    )
    assert table["config"].tolist() == ["A", "G"]
    assert table["ours: fd_classifier_1k"].tolist() == [1.0, 0.5]
    assert table["paper, ImageNet-512: fid_50k"].tolist() == [8.00, 2.56]  # EDM2 Table 1
    assert table["paper, ImageNet-512: EMA length"].tolist() == [0.034, 0.13]


def test_the_papers_cells_are_empty_for_other_configs():
    table = ablation_table(concatenated(CURVE, network_rows((2.0, 0.5, 1.0), config="H")))
    assert table["config"].tolist() == ["G", "H"]
    assert table["ours: fd_classifier_1k"].tolist() == [1.0, 0.5]
    assert table[PAPER_COLUMNS].isna().all(axis=1).tolist() == [False, True]
    assert as_markdown(table).splitlines()[-1].startswith("| H |  | 0.5 |")
    assert "nan" not in as_markdown(table) + html_table(table).lower()


def test_no_config_needs_to_be_in_the_paper():
    table = ablation_table(CURVE.assign(config="H"))
    assert table["ours: fd_classifier_1k"].tolist() == [1.0]
    assert table[PAPER_COLUMNS].isna().all(axis=None)


def test_the_papers_fid_falls_from_a_to_g():
    fid = paper_configs()["fid"]
    assert list(fid.index) == list("ABCDEFG")
    assert fid.is_monotonic_decreasing


@pytest.mark.parametrize("name", ["fd_classifier_200", "fid_200", "fd_dinov2_200"])
def test_baselines_share_one_metric(name):
    """The last value is that of the best network, with 200 samples."""
    table = CURVE.replace({"metric": {"fd_classifier_200": name}})
    baselines = baseline_table(table, {f"held_out/{name}": 5.0, f"reconstructions/{name}": 6.0})
    assert set(baselines["metric"]) == {name}
    assert baselines["value"].tolist() == [5.0, 6.0, 10.0]


def test_without_distances_of_held_out_images_there_are_no_baselines():
    assert baseline_table(CURVE, {}).empty


def test_markdown_has_a_line_per_row():
    text = as_markdown(pd.DataFrame({"a": [1, 2], "b": [0.123456, None]}))
    assert text == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n| 2 |  |\n"


def test_the_page_escapes_text():
    page = render("a < b", [("x & y", paragraph("<script>"))])
    assert "a &lt; b" in page
    assert "x &amp; y" in page
    assert "&lt;script&gt;" in page


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
    """16 pixels by a factor of 3, all black but one."""
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[..., 0, 0] = 255
    canvas = draw_grid([image], ["label"])
    pixels = [canvas.getpixel((x, y)) for x in range(canvas.width) for y in range(canvas.height)]
    assert pixels.count((0, 0, 0)) >= 48 * 48 - 9
