"""Effects over trainings on one seed block; on several, and their calibration: test_crossed.py."""

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


@pytest.mark.parametrize("seeds", [(5, 6, 7, 8, 9), (0, 1, 7, 8, 9)], ids=["none", "few"])
def test_trainings_with_other_seeds_are_compared_unpaired(seeds):
    """Values as of scipy's Welch test, of samples with different sizes and variances."""
    base, change = (
        {0: 1.0, 1: 1.3, 2: 1.2},
        dict(zip(seeds, (0.9, 0.5, 1.4, 1.1, 0.2), strict=True)),
    )
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


def test_the_correction_is_that_of_holm():
    """Of three p-values the lowest counts three times; none gets lower than one before it."""
    found = [effect(dict.fromkeys(range(3), 0.0), dict(enumerate(d))) for d in CLEAR_TO_UNCLEAR]
    p, single = [each.p_value for each in found], effect({0: 1.0}, {0: 2.0})
    adjusted = adjust([found[1], single, found[0], found[2]])
    assert [each.comparisons for each in adjusted] == [2, 1, 3, 1]
    assert adjusted[2].p_value == pytest.approx(3 * p[0])
    assert adjusted[0].p_value == pytest.approx(max(2 * p[1], 3 * p[0]))
    assert adjusted[3].p_value == pytest.approx(max(p[2], 2 * p[1], 3 * p[0]))


CLEAR_TO_UNCLEAR = [(1.0, 1.01, 1.02), (1.0, 1.05, 1.1), (1.0, -1.0, 0.5)]
