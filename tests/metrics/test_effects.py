"""Effects over trainings, and how well their intervals and p-values are calibrated."""

import numpy as np
import pytest
from scipy import stats

from edm2.metrics.effects import adjust, effect


def test_trainings_are_paired_by_seed():
    """Values as of scipy's paired t-test; seed 7 has no partner."""
    base, change = {0: 1.0, 1: 1.3, 2: 1.2, 7: 90.0}, {2: 1.05, 1: 1.25, 0: 0.9}
    found = effect(base, change)
    expected = stats.ttest_rel([0.9, 1.25, 1.05], [1.0, 1.3, 1.2])
    assert found.paired
    assert found.trainings == 3
    assert found.difference == pytest.approx(-0.1)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_trainings_with_other_seeds_are_compared_unpaired():
    """Values as of scipy's Welch test, of samples with different sizes and variances."""
    base, change = {0: 1.0, 1: 1.3, 2: 1.2}, {5: 0.9, 6: 0.5, 7: 1.4, 8: 1.1, 9: 0.2}
    found = effect(base, change)
    expected = stats.ttest_ind(list(change.values()), list(base.values()), equal_var=False)
    assert not found.paired
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_one_training_of_each_has_no_interval():
    found = effect({0: 2.0}, {0: 1.0})
    assert found.difference == -1
    assert (found.interval, found.improvement, found.more_trainings) == (None, None, None)
    assert not found.settled


def test_equal_differences_are_certain():
    found = effect({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert found.interval == (-1, -1)
    assert (found.p_value, found.improvement) == (0, 1)
    same = effect({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0})
    assert (same.p_value, same.settled, same.more_trainings) == (1, False, None)


def test_the_probability_of_improvement_is_of_one_more_pair():
    """Of normal differences with a known mean, more trainings approach the normal distribution."""
    rng = np.random.default_rng(0)
    differences = dict(enumerate(rng.normal(-0.5, 1, 4000)))
    found = effect(dict.fromkeys(differences, 0.0), differences)
    assert found.improvement == pytest.approx(stats.norm.cdf(0.5), abs=0.02)


def test_as_many_more_trainings_as_named_settle_it_with_the_power():
    """Simulated with differences of the mean and spread that three trainings showed."""
    found = effect(dict.fromkeys(range(3), 0.0), {0: -0.3, 1: -0.1, 2: 0.1})
    assert not found.settled
    count = found.trainings + found.more_trainings
    draws = np.random.default_rng(1).normal(found.difference, found.spread, (4000, count))
    settled = (stats.ttest_1samp(draws, 0, axis=1).pvalue <= 0.05).mean()
    assert 0.79 <= settled <= 0.85


@pytest.mark.parametrize("values", [{}, {0: float("nan")}, {0: float("inf"), 1: 1.0}])
def test_values_that_are_missing_or_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="expected finite values"):
        effect(values, {0: 1.0})


def simulated(rng, difference, trainings, spread=0.1, common=0.3):
    """An experiment: quality by seed has a part in common with the base, and one of its own."""
    seeds = rng.normal(0, common, trainings)
    base, change = seeds + rng.normal(0, spread, (2, trainings))
    return effect(dict(enumerate(base)), dict(enumerate(change + difference)))


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_intervals_cover_and_improvements_are_true(trainings):
    """Of 1500 experiments: 95 ± 2 % of the intervals hold the difference; without one, at most 2.5 % are
    called improvements (within three standard errors of the simulation, 1.2 %).
    """
    rng = np.random.default_rng(trainings)
    found = [simulated(rng, -0.1, trainings) for _ in range(1500)]
    covered = np.mean([low <= -0.1 <= high for low, high in (each.interval for each in found)])
    assert 0.93 <= covered <= 0.97
    without = [simulated(rng, 0, trainings) for _ in range(1500)]
    improvements = np.mean([each.settled and each.difference < 0 for each in without])
    assert improvements <= 0.025 + 0.012


def test_a_ladder_without_effects_has_few_false_steps():
    """Of 700 ladders of six steps, at most 5 % (+ 2.5 %) have any that is called settled; without the
    correction about a fifth would.
    """
    rng = np.random.default_rng(0)
    ladders = [[simulated(rng, 0, 4) for _ in range(6)] for _ in range(700)]
    false = np.mean([any(step.settled for step in adjust(ladder)) for ladder in ladders])
    uncorrected = np.mean([any(step.settled for step in ladder) for ladder in ladders])
    assert false <= 0.075
    assert uncorrected > 0.15
