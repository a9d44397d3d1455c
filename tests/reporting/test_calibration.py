"""Intervals of changes whose EMA lengths are chosen by noisy curves: how often they are right."""

import numpy as np
import pytest
from scipy import stats

from edm2.metrics.crossed import crossed_mean
from edm2.reporting.selection import best_of_others

EXPERIMENTS = 4000
LENGTHS = np.linspace(np.log(0.02), np.log(0.25), 12)


def curves(rng, trainings, blocks, lengths):
    """[EXPERIMENTS, trainings, lengths, blocks]: a parabola that is 2 at its best, whose place differs from
    training to training, with noise of trainings, of their blocks, and of each value.
    """
    place = np.log(0.1) + rng.normal(0, 0.15, (EXPERIMENTS, trainings, 1, 1))
    curve = 2 + 0.1 * (lengths[:, None] - place) ** 2
    shape = (EXPERIMENTS, trainings)
    level = rng.normal(0, 0.1, (*shape, 1, 1)) + rng.normal(0, 0.05, (*shape, 1, blocks))
    return curve + level + rng.normal(0, 0.1, (*shape, len(lengths), blocks))


def at_the_best(values, blocks_that_choose):
    """[EXPERIMENTS, trainings, blocks]: values at the chosen lengths."""
    flat = values.reshape(-1, *values.shape[2:])
    chosen = blocks_that_choose(flat)
    return np.take_along_axis(flat, chosen[:, None], axis=1).reshape(*values.shape[:2], -1)


def significance(base, change):
    found = crossed_mean([change - base])
    ratio = found.value / np.sqrt(found.error.variance)
    return found.value, 2 * stats.t.sf(abs(ratio), found.error.degrees)


@pytest.mark.parametrize("trainings", [2, 3, 5, 10])
def test_lengths_chosen_on_other_blocks_leave_intervals_calibrated(trainings):
    """Both have twelve lengths, and no difference: 95 ± 2 % of the intervals hold 0."""
    rng = np.random.default_rng(trainings)
    base, change = (
        at_the_best(curves(rng, trainings, 3, LENGTHS), best_of_others) for _ in range(2)
    )
    difference, p_values = significance(base, change)
    assert 0.93 <= (p_values > 0.05).mean() <= 0.97
    assert ((p_values <= 0.05) & (difference < 0)).mean() <= 0.025 + 0.0075


@pytest.mark.parametrize("trainings", [5, 10])
def test_more_lengths_are_no_improvement(trainings):
    """The base has a single length, of the same quality as the best of twelve of the change. Chosen and
    valued on the same images, more than a tenth are called improvements; on others, at most 2.5 %.
    """
    rng = np.random.default_rng(trainings)
    base = curves(rng, trainings, 3, np.log([0.1]))[:, :, 0] - 0.1 * 0.15**2
    many = curves(rng, trainings, 3, LENGTHS)
    difference, p_values = significance(base, at_the_best(many, best_of_others))
    assert ((p_values <= 0.05) & (difference < 0)).mean() <= 0.025 + 0.0075
    difference, p_values = significance(base, at_the_best(many, lambda v: v.argmin(axis=1)))
    assert ((p_values <= 0.05) & (difference < 0)).mean() > 0.1
