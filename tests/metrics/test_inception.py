"""The Inception score, compared with known values and an independent implementation."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from edm2.metrics import inception_score


@pytest.mark.parametrize("classes", [2, 10])
def test_certain_and_balanced_predictions_score_the_number_of_classes(classes):
    """Probabilities of 0 are allowed."""
    value, deviation = inception_score(np.tile(np.eye(classes), (20, 1)), splits=10)
    assert value == pytest.approx(classes, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_constant_predictions_score_one():
    assert inception_score(np.tile([0.2, 0.3, 0.5], (30, 1)), 3) == pytest.approx((1, 0), abs=1e-12)


def test_two_images_by_hand():
    """(0.9, 0.1) and (0.1, 0.9) with mean (0.5, 0.5): KL = 0.9 ln 1.8 + 0.1 ln 0.2 for both."""
    value, deviation = inception_score(np.array([[0.9, 0.1], [0.1, 0.9]]), 1)
    assert value == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)), rel=1e-12)
    assert deviation == 0


def test_mean_and_deviation_are_over_the_splits():
    """The first half is certain and balanced (2), the second constant (1): 1.5 ± 0.5."""
    certain, constant = np.tile(np.eye(2), (5, 1)), np.tile([0.3, 0.7], (10, 1))
    assert inception_score(np.concatenate([certain, constant]), 2) == pytest.approx((1.5, 0.5))


@pytest.mark.parametrize(("count", "splits"), [(500, 10), (503, 10), (100, 1)])
def test_agrees_with_torch_fidelity(count, splits):
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (count, 12)))
    other = isc_features_to_metric(logits, splits, shuffle=False)
    expected = other["inception_score_mean"], other["inception_score_std"]
    score = inception_score(logits.softmax(1).numpy(), splits)
    assert score == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "splits", "named"),
    [
        (np.ones(5), 1, r"\(5,\)"),
        (np.full((4, 2), 0.5), 5, "and 5"),
        (np.full((4, 2), 0.5), 0, "and 0"),
        (np.array([[1.5, -0.5]]), 1, "sum to 1"),
        (np.array([[3.0, 0.5]]), 1, "softmax"),
        (np.array([[np.nan, 0.5]]), 1, "sum to 1"),
    ],
)
def test_invalid_probabilities_and_splits_are_refused(probabilities, splits, named):
    with pytest.raises(ValueError, match=named):
        inception_score(probabilities, splits)
