"""Streamed moments of features, and their Fréchet distance."""

import re

import numpy as np
import pytest
import torch

from edm2.metrics.statistics import Statistics, distance, finite_features, metric_name
from edm2.params import UserError
from edm2.params.errors import NotFiniteError


def features(count=200, dims=6, seed=0):
    """Correlated, and far from zero, where naive sums of squares lose precision."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) + 1e4


def streamed(data, cuts):
    statistics = Statistics.empty(data.shape[1])
    for part in np.split(data, cuts):
        statistics.update(part)
    return statistics


def check(statistics, data):
    assert statistics.count == len(data)
    np.testing.assert_allclose(statistics.mean, data.mean(axis=0), rtol=1e-12)
    expected = np.cov(data, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cuts", [[], [1], [100], [3, 4, 150], list(range(1, 200))])
def test_streamed_moments_equal_those_of_the_whole(cuts):
    data = features()
    check(streamed(data, cuts), data)


def test_merged_moments_equal_those_of_the_whole():
    data = features()
    parts = [streamed(data[:70], [20]), streamed(data[70:], [5]), Statistics.empty(6)]
    total = Statistics.empty(6)
    for part in parts:
        total.merge(part)
    check(total, data)
    check(parts[0], data[:70])


def test_merging_empty_statistics_gives_empty_statistics():
    total = Statistics.empty(3)
    total.merge(Statistics.empty(3))
    assert total.count == 0
    assert total.mean.tolist() == [0, 0, 0]


def test_sums_are_in_float64():
    """float32 features are converted before they are summed."""
    data = features(count=1000).astype(np.float32)
    statistics = streamed(data, [400])
    assert statistics.mean.dtype == statistics.scatter.dtype == np.float64
    check(statistics, data.astype(np.float64))


@pytest.mark.parametrize("cuts", [[], [1], list(range(1, 2000)), [1000]])
def test_covariance_is_accurate_for_a_mean_far_larger_than_the_spread(cuts):
    """Mean 10⁶, standard deviation 1: Σx² − n·mean² would be wrong in the third digit."""
    rng = np.random.default_rng(0)
    centered = np.round(rng.normal(size=(2000, 3)) * 2**20) / 2**20  # so that adding 10⁶ is exact
    data = centered + 1e6
    halves = [streamed(data[:700], []), streamed(data[700:], [])]
    halves[0].merge(halves[1])
    expected = np.cov(centered, rowvar=False)
    for statistics in (streamed(data, cuts), halves[0]):
        np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(statistics.mean - 1e6, centered.mean(axis=0), atol=2e-9)


def test_an_empty_batch_changes_nothing():
    data = features()
    statistics = streamed(data, [])
    statistics.update(data[:0])
    check(statistics, data)


@pytest.mark.parametrize("shape", [(6,), (4, 1), (4, 7), (4, 6, 1, 1)])
def test_wrong_shapes_are_named(shape):
    statistics = streamed(features(), [])
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        statistics.update(np.ones(shape))
    check(statistics, features())


def test_distance_of_shifted_data():
    """The same data: 0. In another order: 0. Shifted by 3 in one dimension: 9."""
    data = features()
    shifted = data + np.array([3, 0, 0, 0, 0, 0])
    a, b, c = streamed(data, [50]), streamed(shifted, [50]), streamed(data[::-1], [9])
    assert distance(a, a) == pytest.approx(0, abs=1e-5)
    assert distance(a, c) == pytest.approx(0, abs=1e-5)
    assert distance(a, b) == pytest.approx(9, abs=1e-5)


def test_distance_of_scaled_data():
    """Scaled by 2 around the same mean: Σ (σ − 2σ)² = tr Σ."""
    data = features()
    wide = 2 * (data - data.mean(0)) + data.mean(0)
    expected = np.trace(np.cov(data, rowvar=False))
    assert distance(streamed(data, []), streamed(wide, [])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_too_few_images_are_refused(count):
    """No more images than dimensions: a singular covariance."""
    few = streamed(features()[:count], []) if count else Statistics.empty(6)
    enough = streamed(features()[:7], [])
    assert np.isfinite(distance(enough, enough))
    for pair in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=f"{count} images.* 6 "):
            distance(*pair)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_singular_covariances_are_accepted_if_allowed(count):
    """`count` points on a line along one axis, and the same line shifted by 2 along another: 4."""
    line = np.zeros((count, 6))
    line[:, 0] = np.arange(count)
    shifted = line + np.array([0, 2, 0, 0, 0, 0])
    a, b = streamed(line, []), streamed(shifted, [1])
    assert a.singular
    assert b.singular
    assert distance(a, b, allow_singular=True) == pytest.approx(4, abs=1e-6)
    with pytest.raises(UserError, match=f"{count} images"):
        distance(a, b)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_image_is_refused_even_if_singular_is_allowed(count):
    few, enough = Statistics.empty(6), streamed(features()[:7], [])
    few.update(features()[:count])
    assert not enough.singular
    for pair in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=f"{count} images"):
            distance(*pair, allow_singular=True)


@pytest.mark.parametrize(
    ("samples", "name"),
    [(270, "270"), (999, "999"), (1000, "1k"), (1500, "1500"), (10_000, "10k"), (50_000, "50k")],
)
def test_metric_names_contain_the_number_of_samples(samples, name):
    assert metric_name("classifier", samples) == f"fd_classifier_{name}"


@pytest.mark.parametrize(
    ("metric", "detector", "name"),
    [
        ("fd", "inception", "fid_50k"),
        ("fd", "dinov2", "fd_dinov2_50k"),
        ("fd_inf", "inception", "fid_inf"),
        ("fd_inf", "dinov2", "fd_dinov2_inf"),
        ("kid", "inception", "kid_inception_50k"),
        ("precision", "classifier", "precision_classifier_50k"),
    ],
)
def test_only_the_frechet_distance_of_inception_is_called_fid(metric, detector, name):
    assert metric_name(detector, 50_000, metric) == name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused_by_detector(value):
    class Diverged:
        name, dims, fingerprint = "edges", 2, ""

        def features(self, images):
            return torch.tensor([[1.0, value]]).expand(len(images), 2)

    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(NotFiniteError, match="detector edges: 3 of 6 .*detector_path"):
        finite_features(Diverged(), images)
