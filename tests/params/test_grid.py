"""Lists and ranges of numbers."""

import pytest

from edm2.params.grid import parse_grid


@pytest.mark.parametrize(
    "text", ["0.05...0.25 by 0.05", "0.05…0.25 by 0.05", " 0.05 … 0.25 by 5e-2 "]
)
def test_a_range_has_both_ends(text):
    assert parse_grid(text) == [0.05, 0.1, 0.15, 0.2, 0.25]


def test_a_range_ends_at_the_last_step_that_fits():
    assert parse_grid("0.1...0.25 by 0.1") == [0.1, 0.2]


@pytest.mark.parametrize(
    ("text", "points"),
    [("2...10 by 4", [2, 6, 10]), ("2...9 by 4", [2, 6]), ("2.0...10 by 4", [2.0, 6.0, 10.0])],
)
def test_whole_numbers_stay_whole(text, points):
    """A single float makes all of them floats."""
    assert parse_grid(text) == points
    assert [type(point) for point in parse_grid(text)] == [type(point) for point in points]


def test_lists_pass_through():
    assert parse_grid([0.1, 0.2]) == [0.1, 0.2]


@pytest.mark.parametrize(
    "text", ["0.1", "0.1..0.2 by 0.1", "0.1...0.2", "e...1 by 1", "1...2 by 0"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="range"):
        parse_grid(text)


@pytest.mark.parametrize("text", ["0.1...0.2 by 1e-400", "0...1 by 1e-6"])
def test_a_range_with_too_many_points_is_refused_at_once(text):
    with pytest.raises(ValueError, match="at most"):
        parse_grid(text)
