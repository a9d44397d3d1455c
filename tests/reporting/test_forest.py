"""The forest plot shows the values of verdicts."""

import pytest

from edm2.metrics.effects import effect
from edm2.reporting.charts import static_svg
from edm2.reporting.forest import forest_chart
from edm2.reporting.verdict import Verdict

METRIC = "fd_classifier_1k"


def verdict(*differences, change="G", choice="own best"):
    base = dict.fromkeys(range(len(differences)), 2.0)
    values = {seed: 2.0 + difference for seed, difference in enumerate(differences)}
    pairs = dict(enumerate(differences))
    return Verdict("F", change, METRIC, choice, "other blocks", effect(base, values), (3, 3), pairs)


def marks(spec, kind, **of_mark):
    """Rows of the layers with such a mark, from the top to the bottom."""
    rows = [
        row
        for layer in spec["layer"]
        for row in layer["data"]["values"]
        if layer["mark"].items() >= {"type": kind, **of_mark}.items()
    ]
    return sorted(rows, key=lambda row: row.get("y", 0))


def limits(spec):
    return spec["layer"][0]["encoding"]["x"]["scale"]["domain"]


def differences(spec):
    """Rows of the layer of the differences."""
    return marks(spec, "point", size=110)


def test_mean_interval_and_pairs_of_both_choices_of_the_length():
    first = verdict(-0.1, -0.2, -0.3)
    second = verdict(0.05, 0.1, choice="common")
    spec = forest_chart([first, second])
    own, common = differences(spec)
    assert (own["difference"], common["difference"]) == pytest.approx((-0.2, 0.075))
    assert own["choice"] != common["choice"]
    assert (own["low"], own["high"]) == pytest.approx(first.effect.interval, rel=1e-3)
    pairs = marks(spec, "circle")
    assert [(row["seed"], row["value"]) for row in pairs if row["choice"] == own["choice"]] == [
        (0, -0.1),
        (1, -0.2),
        (2, -0.3),
    ]
    assert [row["value"] for row in pairs if row["choice"] == common["choice"]] == [0.05, 0.1]
    assert METRIC in spec["layer"][0]["encoding"]["x"]["title"]
    assert marks(spec, "text", fontWeight="bold")[0]["text"] == ["F → G"]


def test_only_settled_differences_are_filled():
    spec = forest_chart(
        [verdict(-0.1, -0.11, -0.1, -0.12), verdict(-0.1, 0.3, -0.4, 0.1, change="H")]
    )
    hollow = marks(spec, "point", style="hollow")
    assert [row["of"] for row in differences(spec)] == ["F → G", "F → H"]
    assert [row["of"] for row in hollow] == ["F → H"]


def test_one_training_has_no_interval():
    spec = forest_chart([verdict(-0.1)])
    (row,) = differences(spec)
    assert (row["difference"], row["low"], row["high"]) == (-0.1, None, None)
    assert marks(spec, "tick") == []
    low, high = limits(spec)
    assert low < -0.1 < 0 < high  # the line at 0 is shown


def test_a_long_interval_ends_with_arrows():
    """Of two pairs: ten times as wide as the differences, which would be points next to 0."""
    wide = verdict(-0.1, 0.1)
    assert wide.effect.interval[1] == pytest.approx(12.7 * 0.1, rel=0.01)
    spec = forest_chart([wide])
    low, high = limits(spec)
    assert [row["low"] for row in marks(spec, "point", shape="triangle-left")] == [
        pytest.approx(low)
    ]
    assert [row["high"] for row in marks(spec, "point", shape="triangle-right")] == [
        pytest.approx(high)
    ]
    assert high < 0.5
    assert marks(spec, "tick") == []
    assert differences(spec)[0]["interval"] == "-1.271 to 1.271"  # the tooltip has it in full


def test_changes_are_rows_from_the_top():
    spec = forest_chart([verdict(-0.3, -0.31), verdict(0.3, 0.31, change="H")])
    titles, rows = marks(spec, "text", fontWeight="bold"), differences(spec)
    assert [title["text"] for title in titles] == [["F → G"], ["F → H"]]
    assert titles[0]["y"] < rows[0]["y"] < titles[1]["y"] < rows[1]["y"] < spec["height"]
    assert spec["encoding"]["y"]["scale"]["domain"] == [spec["height"], 0]


@pytest.mark.slow
def test_the_chart_is_drawn():
    """As SVG, with the names of changes and axis."""
    svg = static_svg(forest_chart([verdict(-0.1, -0.2, -0.3), verdict(0.1, change="H")]))
    for text in ("F → G", "F → H", f"change of {METRIC}", "each at its own best"):
        assert text in svg
