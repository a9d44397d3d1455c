"""Charts and words about the EMA length of the VAE."""

import pandas as pd
import pytest

from edm2.reporting.vae_averages import best_in_words, best_row, ema_panels


def table(ssim, **metrics):
    lengths = [0.0, 0.05, 0.1][: len(ssim)]
    constant = {"nimg": 100, "error": 0.0, "weight_sum": 1.0, "snapshots": 4, "evaluated_images": 9}
    return pd.DataFrame({"ema_length": lengths, **constant, "ssim": ssim, **metrics})


def test_a_chart_for_each_metric_with_its_best_length():
    panels = ema_panels(table([0.7, 0.9, 0.8], psnr=[20.0, 21.0, 22.0], perceptual_vgg16=[3, 2, 1]))
    assert [panel["title"] for panel in panels] == ["SSIM", "PSNR", "Perceptual distance"]
    series = [panel["layer"][0]["data"]["values"] for panel in panels]
    assert [len(rows) for rows in series] == [3, 3, 3]
    assert [rows[0]["series"] for rows in series] == [
        "best: 0.9 at 0.05",
        "best: 22 at 0.1",
        "best: 1 at 0.1",
    ]
    circles = [panel["layer"][-1]["data"]["values"] for panel in panels]
    assert [[row["ema_length"] for row in rows] for rows in circles] == [[0.05], [0.1], [0.1]]


def test_a_metric_that_is_not_finite_has_no_chart():
    panels = ema_panels(table([0.7, 0.9], psnr=[20.0, float("inf")]))
    assert [panel["title"] for panel in panels] == ["SSIM"]


def test_there_is_no_chart_without_averages():
    assert ema_panels(pd.DataFrame(columns=["ema_length", "nimg"])) == []


def test_of_equal_values_the_shortest_length_is_the_best():
    assert best_row(table([0.9, 0.9, 0.8]), "ssim")["ema_length"] == 0


@pytest.mark.parametrize(
    ("ssim", "parts"),
    [
        ([0.9, 0.8, 0.7], ["no average is better"]),
        ([0.7, 0.9, 0.8], ["EMA length 0.05 is the best: 0.9000, 0.2 more"]),
        ([0.7, 0.8, 0.9], ["EMA length 0.1, the longest that was evaluated, is the best: 0.9000"]),
    ],
)
def test_words_compare_with_the_final_weights(ssim, parts):
    text = best_in_words(table(ssim))
    assert all(part in text for part in parts)
