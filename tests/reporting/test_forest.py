"""The forest plot shows the values of verdicts."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from edm2.metrics.effects import effect
from edm2.reporting import forest
from edm2.reporting.forest import draw_forest
from edm2.reporting.verdict import Verdict

METRIC = "fd_classifier_1k"


def verdict(*differences, change="G", choice="own best"):
    base = dict.fromkeys(range(len(differences)), 2.0)
    values = {seed: 2.0 + difference for seed, difference in enumerate(differences)}
    pairs = dict(enumerate(differences))
    return Verdict("F", change, METRIC, choice, "other blocks", effect(base, values), (3, 3), pairs)


@pytest.fixture
def drawn(monkeypatch):
    """Draws, and returns the panel with the differences."""
    figures = []
    monkeypatch.setattr(forest, "save_figure", lambda figure, *_: figures.append(figure))

    def draw(*verdicts):
        draw_forest(verdicts)
        return figures[-1].axes[0]

    return draw


def x_of(axes, marker):
    """Positions of the marks with this marker, from the top row to the bottom one."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    lines.sort(key=lambda line: np.mean(line.get_ydata()))
    return [np.ravel(line.get_xdata()).tolist() for line in lines]


def test_mean_interval_and_pairs_of_both_choices_of_the_length(drawn):
    first = verdict(-0.1, -0.2, -0.3)
    second = verdict(0.05, 0.1, choice="common")
    axes = drawn(first, second)
    assert x_of(axes, "o") == [pytest.approx([-0.2])]
    assert x_of(axes, "D") == [pytest.approx([0.075])]
    assert x_of(axes, ".") == [pytest.approx([-0.1, -0.2, -0.3]), pytest.approx([0.05, 0.1])]
    intervals = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(tuple(each) == pytest.approx(first.effect.interval) for each in intervals)
    assert METRIC in axes.get_xlabel()
    assert [text.get_text() for text in axes.texts][:1] == ["F → G"]


def test_only_settled_differences_are_filled(drawn):
    axes = drawn(verdict(-0.1, -0.11, -0.1, -0.12), verdict(-0.1, 0.3, -0.4, 0.1, change="H"))
    points = [line for line in axes.lines if line.get_marker() == "o"]
    white = [to_rgba(point.get_markerfacecolor()) == to_rgba("white") for point in points]
    assert white == [False, True]


def test_one_training_has_no_interval(drawn):
    axes = drawn(verdict(-0.1))
    assert x_of(axes, "o") == [pytest.approx([-0.1])]
    assert x_of(axes, "|") == []
    low, high = axes.get_xlim()
    assert low < -0.1 < 0 < high  # the line at 0 is shown


def test_a_long_interval_ends_with_arrows(drawn):
    """Of two pairs: ten times as wide as the differences, which would be points next to 0."""
    wide = verdict(-0.1, 0.1)
    assert wide.effect.interval[1] == pytest.approx(12.7 * 0.1, rel=0.01)
    axes = drawn(wide)
    low, high = axes.get_xlim()
    assert x_of(axes, "<") == [pytest.approx([low])]
    assert x_of(axes, ">") == [pytest.approx([high])]
    assert high < 0.5
    assert x_of(axes, "|") == []


def test_changes_are_rows_from_the_top(drawn):
    axes = drawn(verdict(-0.3, -0.31), verdict(0.3, 0.31, change="H"))
    top, bottom = axes.texts[0].get_position()[1], axes.texts[1].get_position()[1]
    assert [text.get_text() for text in axes.texts[:2]] == ["F → G", "F → H"]
    assert top < bottom
    assert axes.yaxis_inverted()
