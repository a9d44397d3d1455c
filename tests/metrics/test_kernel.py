"""The kernel distance, compared with explicit sums and an independent implementation."""

import re

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from edm2.metrics import kernel_distance, pairs


def features(count, dims=5, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (count, dims)).astype(np.float32)


def by_hand(a, b):
    """Gretton et al. 2012, eq. 3, pair by pair."""

    def k(x, y):
        return (float(x.astype(np.float64) @ y.astype(np.float64)) / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within_a = [k(a[i], a[j]) for i in range(m) for j in range(m) if i != j]
    within_b = [k(b[i], b[j]) for i in range(n) for j in range(n) if i != j]
    across = [k(x, y) for x in a for y in b]
    return np.mean(within_a) + np.mean(within_b) - 2 * np.mean(across)


def test_three_numbers_by_hand():
    """k(x, y) = (xy + 1)³ for 0, 1, 1 and 0, 0, 2: means of 10/3, 1 and (3·1 + 2·(1 + 1 + 27))/9."""
    a, b = np.array([[0.0], [1.0], [1.0]]), np.array([[0.0], [0.0], [2.0]])
    within_a = (1 + 1 + 8) / 3
    within_b = (1 + 1 + 1) / 3
    across = (1 * 3 + 2 * (1 + 1 + 27)) / 9
    value, _ = kernel_distance(a, b)
    assert value == pytest.approx(within_a + within_b - 2 * across, rel=1e-12)


@pytest.mark.parametrize(("m", "n", "shift"), [(3, 3, 0.0), (12, 7, 0.5), (7, 12, 2.0)])
def test_every_pair_counts_once(m, n, shift):
    a, b = features(m), features(n, seed=1, shift=shift)
    assert kernel_distance(a, b)[0] == pytest.approx(by_hand(a, b), rel=1e-10)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-10)


@pytest.mark.parametrize(("m", "n"), [(12, 7), (3, 5), (20, 20)])
def test_the_error_is_the_delete_one_jackknife(m, n):
    a, b = features(m), features(n, seed=1, shift=0.5)
    without_a = [by_hand(np.delete(a, i, 0), b) for i in range(m)]
    without_b = [by_hand(a, np.delete(b, j, 0)) for j in range(n)]
    variance = (m - 1) * np.var(without_a) + (n - 1) * np.var(without_b)
    assert kernel_distance(a, b)[1] == pytest.approx(np.sqrt(variance), rel=1e-8)


def expected_kernel(a, b):
    """E (x·y/D + 1)³ for x ~ N(a, I) and y ~ N(b, I), from the first three moments of x·y."""
    dims, ab = len(a), a @ b
    first, second = ab, dims + a @ a + b @ b + ab**2
    third = ab**3 + 3 * ab * (a @ a + b @ b + dims + 2)
    return 1 + 3 * first / dims + 3 * second / dims**2 + third / dims**3


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_estimate_is_unbiased_and_its_error_matches_the_spread(shift):
    """Over 2000 samples of features from N(0, 1) and N(shift, 1)."""
    estimates = np.array(
        [
            kernel_distance(features(40, 2, 2 * k), features(60, 2, 2 * k + 1, shift))
            for k in range(2000)
        ]
    )
    a, b = np.zeros(2), np.full(2, shift)
    expected = expected_kernel(a, a) + expected_kernel(b, b) - 2 * expected_kernel(a, b)
    assert (expected == 0) == (shift == 0)
    spread = estimates[:, 0].std()
    assert estimates[:, 0].mean() == pytest.approx(expected, abs=3 * spread / 2000**0.5)
    root_mean_square = np.sqrt((estimates[:, 1] ** 2).mean())
    assert 0.9 * spread < root_mean_square < 1.6 * spread


@pytest.mark.parametrize(("count", "dims"), [(300, 64), (500, 16)])
def test_agrees_with_torch_fidelity_on_one_subset_of_all_images(count, dims):
    a, b = features(count, dims), features(count, dims, seed=1, shift=0.2)
    other = kid_features_to_metric(
        *(torch.from_numpy(z).double() for z in (a, b)),
        kid_subsets=1,
        kid_subset_size=count,
        verbose=False,
    )
    expected = other["kernel_inception_distance_mean"]
    assert kernel_distance(a, b)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("limit", [1, 50, 64, 1000])
def test_the_size_of_chunks_changes_nothing(monkeypatch, limit):
    a, b = features(30), features(20, seed=1, shift=1.0)
    expected = kernel_distance(a, b)
    monkeypatch.setattr(pairs, "MAX_PAIRS", limit)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 5), (9, 5)), ((9, 5), (2, 5)), ((9, 5), (9, 4)), ((9,), (9,)), ((9, 5, 1), (9, 5, 1))],
)
def test_wrong_shapes_and_too_few_features_are_named(a, b):
    with pytest.raises(ValueError, match=f"{re.escape(str(a))} and {re.escape(str(b))}"):
        kernel_distance(np.ones(a), np.ones(b))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_non_finite_features_are_refused(value, position):
    both = [features(5), features(5)]
    both[position][2, 1] = value
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(*both)
