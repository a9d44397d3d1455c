"""The place of a curve's minimum and its interval, on curves with known minima."""

import numpy as np
import pytest

from edm2.metrics.minima import coordinate, ema_length, locate_minimum

LENGTHS = np.linspace(0.01, 0.25, 13)


def steep_and_flat(lengths, best):
    """Rises more towards short EMA lengths than towards long ones, in a cubic way."""
    x = coordinate(lengths) - coordinate(best)
    return 2 + 0.5 * x**2 - 0.05 * x**3


def test_coordinates_are_logarithms_of_short_lengths_and_have_an_end():
    assert coordinate(0.001) - coordinate(0.0005) == pytest.approx(np.log(2), abs=2e-3)
    assert coordinate(12**-0.5 / 2) == pytest.approx(0)
    assert ema_length(coordinate([0.01, 0.25])) == pytest.approx([0.01, 0.25])


def evaluations(rng, best, units, noise, level=0.3):
    """All lengths in each unit, which has a level of its own."""
    curve = steep_and_flat(LENGTHS, best)
    values = curve + rng.normal(0, level, (units, 1)) + rng.normal(0, noise, (units, len(curve)))
    numbers = np.repeat(np.arange(units), len(curve))
    return np.tile(LENGTHS, units), numbers, values.ravel()


@pytest.mark.parametrize("best", [0.04, 0.1])
def test_without_noise_it_is_found_between_the_lengths(best):
    found = locate_minimum(*evaluations(np.random.default_rng(0), best, 2, 0.0))
    assert found.place == pytest.approx(best, rel=1e-3)
    assert found.interval == pytest.approx((best, best), rel=1e-3)
    assert not found.at_edge


def test_units_may_have_some_of_the_lengths_only():
    """Levels of units do not move the minimum: each has other lengths, and a level far from the others."""
    lengths = np.concatenate([LENGTHS[::2], LENGTHS[1::2], LENGTHS[2:8]])
    units = np.repeat([3, 8, 9], [len(LENGTHS[::2]), len(LENGTHS[1::2]), 6])
    values = steep_and_flat(lengths, 0.07) + np.array([0.0] * 8 + [5.0, 1.0])[units]
    assert locate_minimum(lengths, units, values).place == pytest.approx(0.07, rel=1e-3)


@pytest.mark.parametrize(("best", "edge"), [(0.005, 0.01), (0.28, 0.25)])
def test_a_minimum_outside_of_the_lengths_is_at_the_edge(best, edge):
    found = locate_minimum(*evaluations(np.random.default_rng(0), best, 2, 0.0))
    assert found.at_edge
    assert found.place == pytest.approx(edge)


def test_one_unit_has_no_interval():
    assert locate_minimum(*evaluations(np.random.default_rng(0), 0.1, 1, 0.01)).interval is None


def test_intervals_cover_the_place():
    """Of 300 curves, 95 % (± 3.8 %: three standard errors of the simulation) have it in their interval."""
    rng = np.random.default_rng(5)
    found = [locate_minimum(*evaluations(rng, 0.08, 5, 0.03)).interval for _ in range(300)]
    covered = np.mean([low <= 0.08 <= high for low, high in found])
    assert 0.912 <= covered <= 0.988
    assert np.mean([high - low for low, high in found]) < 0.04


@pytest.mark.parametrize(
    ("lengths", "values"),
    [([0.1, 0.2, 0.3, 0.4], [1.0] * 4), ([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, np.nan, 2.0, 3.0, 4.0])],
)
def test_too_few_lengths_or_values_that_are_not_finite_are_refused(lengths, values):
    with pytest.raises(ValueError, match="finite values at 5 EMA lengths"):
        locate_minimum(lengths, [0] * len(lengths), values)
