"""Specifications of charts, and the figures that they give without a browser."""

import json
import math

import pandas as pd
import pytest
from network_rows import concatenated, network_rows
from PIL import Image

from edm2.reporting.charts import as_json, limits, records, static_svg, write_chart
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.page import chart

CURVE = network_rows((3.0, 1.0, 2.0))
SEVERAL = concatenated(CURVE, network_rows((5.0, 2.0, 3.0), training_seed=1))


def values(spec, mark):
    """The rows of the layers with a mark."""
    return [layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == mark]


def test_records_are_rounded_and_what_is_not_finite_is_null():
    table = pd.DataFrame({"a": [1.23456789, math.nan, math.inf], "b": [1, 2, 3], "c": list("xyz")})
    assert records(table) == [
        {"a": 1.2346, "b": 1, "c": "x"},
        {"a": None, "b": 2, "c": "y"},
        {"a": None, "b": 3, "c": "z"},
    ]


def test_the_minimum_of_a_curve_is_circled():
    spec = ema_curves_chart(CURVE)
    ((line,), (_, circle)) = values(spec, "line"), values(spec, "point")
    assert [(row["ema_length"], row["value"]) for row in line] == [(0.05, 3), (0.1, 1), (0.2, 2)]
    assert [(row["ema_length"], row["value"]) for row in circle] == [(0.1, 1)]
    assert not values(spec, "area")


def test_several_trainings_have_thin_lines_their_mean_and_a_band():
    spec = ema_curves_chart(SEVERAL)
    thin, mean = values(spec, "line")
    assert [row["value"] for row in thin] == [3, 1, 2, 5, 2, 3]
    assert [row["value"] for row in mean] == [4, 1.5, 2.5]
    (band,) = values(spec, "area")
    half = 12.7062 * 0.5  # Student's t of one degree of freedom; standard error of 1 and 2
    assert [band[1]["low"], band[1]["high"]] == pytest.approx([1.5 - half, 1.5 + half], rel=1e-4)


def test_a_metric_that_is_not_positive_has_a_linear_axis():
    for lowest, scale in ((1.0, "log"), (-1.0, "linear")):
        spec = ema_curves_chart(network_rows((3.0, lowest, 2.0)))
        assert {layer["encoding"]["y"]["scale"]["type"] for layer in spec["layer"]} == {scale}


def test_an_axis_ends_where_wide_bands_would_flatten_the_lines():
    """Lines from 1 to 4 have room of a factor 4 below and above; bands reach further, or less far."""
    lines = pd.Series([1.0, 4.0])
    wide = limits(lines, pd.Series([-3.0]), pd.Series([100.0]))
    assert wide == pytest.approx((0.25 / 1.05, 16 * 1.05))
    narrow = limits(lines, pd.Series([0.9, math.nan]), pd.Series([4.4, math.nan]))
    assert narrow == pytest.approx((0.9 / 1.05, 4.4 * 1.05))


def test_files_are_the_same_each_time(tmp_path):
    spec = ema_curves_chart(SEVERAL)
    first = static_svg(spec)
    write_chart(spec, tmp_path / "a.svg", tmp_path / "a.png")
    assert (tmp_path / "a.svg").read_text() == first
    assert first.startswith("<svg")
    assert "EMA length" in first
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_page_has_the_specification_as_data_that_no_text_can_end():
    spec = ema_curves_chart(CURVE.assign(config="</script><b>"))
    figure = chart(spec, "a < b")
    data = figure.partition('application/json">')[2].partition("</script>")[0]
    assert json.loads(data)["layer"] == json.loads(as_json(spec))["layer"]
    assert figure.count("</script>") == 1
    assert "<figcaption>a &lt; b</figcaption>" in figure
