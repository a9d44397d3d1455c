"""Precision and recall, compared with loops, results by hand and an independent implementation."""

import re

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from edm2.metrics import pairs, precision, recall


def features(count, dims=4, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (count, dims)).astype(np.float32)


def by_hand(points, support, k):
    """Kynkäänniemi et al. 2019, eq. 1 and 2, pair by pair."""
    inside = 0
    for x in points.astype(np.float64):
        for i, center in enumerate(support.astype(np.float64)):
            others = [np.linalg.norm(center - o) for j, o in enumerate(support) if j != i]
            if np.linalg.norm(x - center) <= sorted(others)[k - 1]:
                inside += 1
                break
    return inside / len(points)


def test_points_on_a_line_by_hand():
    """Reference 0, 1, 3, 10 and k = 1: the balls are [-1, 1], [0, 2], [1, 5], [3, 17]."""
    reference = np.array([[0.0], [1.0], [3.0], [10.0]])
    generated = np.array([[-1.5], [-1.0], [2.5], [17.0], [17.5]])
    assert precision(generated, reference, 1) == 3 / 5
    # the balls of the generated are [-2, -1], [-1.5, -0.5], [-1, 6], [16.5, 17.5], [17, 18]
    assert recall(generated, reference, 1) == 3 / 4


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("m", "n", "shift"), [(40, 30, 0.5), (30, 40, 1.5), (25, 25, 0.0)])
def test_agrees_with_loops_over_pairs(k, m, n, shift):
    a, b = features(m), features(n, seed=1, shift=shift)
    assert precision(a, b, k) == by_hand(a, b, k)
    assert recall(a, b, k) == by_hand(b, a, k)


@pytest.mark.parametrize("dims", [8, 64])
@pytest.mark.parametrize("k", [3, 5])
def test_agrees_with_torch_fidelity(dims, k):
    """Its first set is the generated one."""
    a, b = features(300, dims), features(300, dims, seed=1, shift=0.3) * 1.3
    other = prc_features_to_metric(
        torch.from_numpy(a),
        torch.from_numpy(b),
        prc_neighborhood=k,
        prc_batch_size=100,
        save_cpu_ram=False,
        verbose=False,
    )
    values = precision(a, b, k), recall(a, b, k)
    assert values[0] != values[1]
    assert values == pytest.approx((other["precision"], other["recall"]), rel=1e-6)


def test_a_set_lies_on_its_own_manifold():
    a = features(50)
    assert precision(a, a, 3) == recall(a, a, 3) == 1


def test_precision_and_recall_of_distant_sets_are_zero():
    a, b = features(50), features(50, seed=1, shift=100.0)
    assert precision(a, b, 3) == recall(a, b, 3) == 0


def test_mode_collapse_has_high_precision_and_low_recall():
    """The generated images are copies of two reference images."""
    reference = features(200, seed=2)
    collapsed = np.repeat(reference[:2], 50, axis=0) + features(100, seed=3) * 1e-3
    assert precision(collapsed, reference, 3) == 1
    assert recall(collapsed, reference, 3) <= 2 / 200


@pytest.mark.parametrize("dims", [5, 257, 1000])
def test_equal_features_are_at_distance_zero(dims):
    """Balls of radius 0, around repeated features, contain equal features."""
    unique = features(40, dims)
    reference, generated = np.repeat(unique, 5, axis=0), np.repeat(unique[:26], 4, axis=0)
    assert precision(generated, reference, 3) == 1
    assert recall(generated, reference, 3) == 26 / 40
    assert precision(generated * np.float32(1 + 1e-5), reference, 3) == 0


def test_distances_are_accurate_for_a_mean_far_larger_than_the_spread():
    """Mean 1000, standard deviation 10⁻³, in 257 dimensions."""
    a, b = (
        1000 + 1e-3 * features(30, 257, seed).astype(np.float64) * scale
        for seed, scale in ((0, 1.0), (1, 1.02))
    )
    values = precision(a, b, 3), recall(a, b, 3)
    assert values == (by_hand(a, b, 3), by_hand(b, a, 3))
    assert values[0] != values[1]


@pytest.mark.parametrize("limit", [1, 50, 64, 1000])
def test_the_size_of_chunks_changes_nothing(monkeypatch, limit):
    a, b = features(30), features(20, seed=1, shift=0.5)
    expected = precision(a, b, 3), recall(a, b, 3)
    monkeypatch.setattr(pairs, "MAX_PAIRS", limit)
    assert (precision(a, b, 3), recall(a, b, 3)) == expected


@pytest.mark.parametrize(("m", "n", "k"), [(10, 10, 10), (4, 10, 4), (10, 4, 4), (10, 10, 0)])
def test_a_number_of_neighbors_outside_the_sets_is_refused(m, n, k):
    with pytest.raises(ValueError, match=f"neighbors = {k}: .*{min(m, n)}"):
        precision(features(m), features(n), k)


@pytest.mark.parametrize(("a", "b"), [((9, 5), (9, 4)), ((9,), (9,)), ((9, 5, 1), (9, 5, 1))])
def test_wrong_shapes_are_named(a, b):
    with pytest.raises(ValueError, match=f"{re.escape(str(a))} and {re.escape(str(b))}"):
        precision(np.ones(a), np.ones(b))


@pytest.mark.parametrize("metric", [precision, recall])
@pytest.mark.parametrize("position", [0, 1])
def test_non_finite_features_are_refused(metric, position):
    both = [features(9), features(9)]
    both[position][2, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        metric(*both)
