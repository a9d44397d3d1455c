"""The Fréchet distance at infinitely many samples, of Gaussians whose distance is known."""

import numpy as np
import pytest

from edm2.metrics.frechet import frechet_distance
from edm2.metrics.jackknife import extrapolate
from edm2.metrics.statistics import Statistics
from edm2.params import UserError

DIMS = 8


@pytest.fixture(scope="module")
def gaussians():
    """Factor and mean of one Gaussian, and the standard normal one as a reference."""
    rng = np.random.default_rng(0)
    factor = np.eye(DIMS) + 0.2 * rng.normal(size=(DIMS, DIMS))
    mean = 0.2 * rng.normal(size=DIMS)
    many = Statistics(10**9, np.zeros(DIMS), np.eye(DIMS) * (10**9 - 1))
    exact = frechet_distance(mean, factor @ factor.T, np.zeros(DIMS), np.eye(DIMS))
    return factor, mean, many, exact


def estimate(rng, gaussians, samples, groups=10):
    factor, mean, reference, _ = gaussians
    features = rng.normal(size=(samples, DIMS)) @ factor.T + mean
    parts = [Statistics.of(part) for part in np.array_split(features, groups)]
    return extrapolate(parts, reference)


def test_few_and_many_samples_speak_of_one_quantity(gaussians):
    """The plain distance of 200 samples is too high by far more than the error of the estimate's mean."""
    rng, exact = np.random.default_rng(1), gaussians[-1]
    for samples in (200, 1000):
        found = [estimate(rng, gaussians, samples) for _ in range(100)]
        values = np.array([each.value for each in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - exact) < 3.5 * error
        assert (
            np.mean([each.finite for each in found])
            > exact + (6 if samples == 200 else 1.5) * error
        )


def test_5000_and_50_000_samples_give_one_quantity_within_their_intervals():
    """In 48 dimensions the plain distance of 5000 samples is too high by about 48² / 4 / 5000 and more; that
    is many times the error of the estimate, whose intervals overlap and hold the exact distance.
    """
    rng, dims = np.random.default_rng(5), 48
    scales = np.linspace(0.9, 1.1, dims)
    reference = Statistics(10**9, np.zeros(dims), np.eye(dims) * (10**9 - 1))
    exact = ((scales - 1) ** 2).sum()
    few, many = (
        extrapolate(
            [Statistics.of(part) for part in np.split(rng.normal(0, scales, (count, dims)), 10)],
            reference,
        )
        for count in (5000, 50_000)
    )
    for found in (few, many):
        assert found.interval[0] <= exact <= found.interval[1]
    assert few.finite > few.interval[1] + 3 * few.standard_error
    assert abs(few.value - many.value) < np.hypot(few.standard_error, many.standard_error) * 3


def test_intervals_cover_the_distance(gaussians):
    """Of 400 estimates, 95 % (± 3.3 %: three standard errors of the simulation) have it in their interval."""
    rng, exact = np.random.default_rng(2), gaussians[-1]
    found = [estimate(rng, gaussians, 300).interval for _ in range(400)]
    covered = np.mean([low <= exact <= high for low, high in found])
    assert 0.917 <= covered <= 0.983


def test_groups_of_one_sample_mean_are_the_pseudovalues():
    """In one dimension with a reference without variance the distance is known: (mean)² + variance."""
    rng = np.random.default_rng(3)
    groups = [Statistics.of(rng.normal(1, 2, (6, 1))) for _ in range(5)]
    reference = Statistics(1000, np.zeros(1), np.zeros((1, 1)))

    def distance(parts):
        merged = Statistics.empty(1)
        for part in parts:
            merged.merge(part)
        return merged.mean[0] ** 2 + merged.covariance[0, 0]

    others = [distance(groups[:k] + groups[k + 1 :]) for k in range(5)]
    found = extrapolate(groups, reference)
    assert found.finite == pytest.approx(distance(groups))
    assert found.value == pytest.approx(5 * distance(groups) - 4 * np.mean(others))
    assert found.standard_error == pytest.approx(4 / np.sqrt(5) * np.std(others, ddof=1))


def test_too_few_groups_or_samples_are_refused(gaussians):
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="at least 5 groups"):
        estimate(rng, gaussians, 100, groups=4)
    with pytest.raises(UserError, match="more images than the 8 feature dimensions"):
        estimate(rng, gaussians, 8, groups=8)
