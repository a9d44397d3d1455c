"""The error of a mean over trainings and seed blocks, and how well intervals of it are calibrated."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from edm2.metrics.crossed import Components, crossed_mean
from edm2.metrics.effects import Effect, adjust, effect


def draw(rng, components, trainings, blocks, count=1):
    """[count, trainings, blocks] of the model, with a mean of 0."""
    scales = np.sqrt([components.trainings, components.samples, components.both])
    shapes = [(count, trainings, 1), (count, 1, blocks), (count, trainings, blocks)]
    return sum(rng.normal(0, scale, shape) for scale, shape in zip(scales, shapes, strict=True))


def of_values(differences):
    """The effect of differences [trainings, blocks]."""
    seeds = range(len(differences))
    return effect(dict.fromkeys(seeds, [0.0] * len(differences[0])), dict(enumerate(differences)))


def test_the_variance_is_that_of_the_analysis_of_variance():
    """Rows 0, 1, 5 and columns −30, 30 added, and a residual of ±1, ∓1, 0. Mean squares by hand: of means of
    rows 7, of means of columns 1800, of the residual 2.
    """
    rows, columns = np.array([[0.0], [1], [5]]), np.array([-30.0, 30])
    found = crossed_mean([rows + columns + [[1, -1], [-1, 1], [0, 0]]])
    assert found.value == pytest.approx(2)
    seeds, blocks, error = 7 / 3, 1800 / 2, 2 / 6
    total = seeds + blocks - error
    assert found.error.variance == pytest.approx(total)
    satterthwaite = total**2 / (seeds**2 / 2 + blocks**2 / 1 + error**2 / 2)
    assert found.error.degrees == pytest.approx(satterthwaite)
    assert (found.trainings, found.samples, found.both) == pytest.approx(
        (7 - 2 / 2, 1800 - 2 / 3, 2)
    )
    assert found.spread == pytest.approx(7**0.5)


def test_the_error_is_that_of_a_bootstrap_over_trainings_and_blocks():
    """Both are resampled with replacement, which needs no model (Owen 2007, the "pigeonhole" bootstrap)."""
    rng = np.random.default_rng(0)
    values = draw(rng, Components(1, 2, 1, 1), 40, 30)[0]
    rows, columns = rng.integers(0, 40, (2000, 40)), rng.integers(0, 30, (2000, 30))
    means = values[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    assert np.sqrt(crossed_mean([values]).error.variance) == pytest.approx(means.std(), rel=0.06)


def test_the_components_are_found():
    """Means of 500 experiments with ten trainings on eight blocks; a standard error is about 2 %."""
    found = crossed_mean([draw(np.random.default_rng(1), Components(1, 2, 3, 1), 10, 8, 500)])
    means = [part.mean() for part in (found.trainings, found.samples, found.both)]
    assert means == pytest.approx([1, 2, 3], rel=0.1)


def test_blocks_that_differ_by_chance_alone_leave_the_interval_of_the_trainings():
    """Means of columns that vary less than the residual: Student's t of the means of rows."""
    values = np.array([[1.0, 3.0], [4.0, 2.0], [9.0, 9.1]])
    found, expected = of_values(values), stats.ttest_1samp(values.mean(1), 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.sample_share < 0.5


def test_unpaired_trainings_share_the_blocks():
    """The blocks' difference is 60 in all trainings of the change and 0 in the base, without a residual."""
    base = {0: [1.0, 1], 1: [3.0, 3]}
    change = {5: [0.0, 60], 6: [2.0, 62], 7: [7.0, 67]}
    found = effect(base, change)
    assert (found.paired, found.trainings, found.blocks) == (False, 2, 2)
    assert found.difference == pytest.approx(31)
    seeds, blocks = 2 / 2 + 13 / 3, 1800 / 2
    assert found.standard_error == pytest.approx(np.sqrt(seeds + blocks))
    assert found.components.trainings == pytest.approx(2 + 13)
    assert found.components.samples == pytest.approx(1800)
    assert found.components.both == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_the_samples(share):
    """Trainings that are alike on all blocks but differ between blocks, and the reverse."""
    values = np.array([[1.0, 2.0, 4.0]] * 3)
    assert of_values(values if share else values.T).sample_share == pytest.approx(share)


def test_one_block_or_training_leaves_the_source_unknown():
    one_block = of_values([[1.0], [2.0], [4.0]])
    assert (one_block.components, one_block.sample_share) == (None, None)
    assert one_block.expected_half_width(3, 2) is None
    one_training = of_values([[1.0, 2.0, 4.0]])
    assert (one_training.interval, one_training.components) == (None, None)
    assert one_training.expected_half_width(3, 3) is None
    assert np.isnan(one_training.standard_error)
    assert one_training.difference == pytest.approx(7 / 3)
    assert one_block.expected_half_width(1, 1) is None


def test_different_numbers_of_blocks_are_refused():
    with pytest.raises(ValueError, match="as many seed blocks"):
        effect({0: [1.0, 2.0]}, {0: [1.0, 2.0, 3.0]})


def with_components(components, trainings, blocks):
    return Effect(0.1, trainings, blocks, True, 1.0, components, 1.0, trainings - 1, 1, 0.5)


@pytest.mark.parametrize("components", [Components(1, 0.03, 0.3, 1), Components(1, 0.3, 1, 1)])
@pytest.mark.parametrize(("trainings", "blocks"), [(3, 3), (5, 3), (5, 5), (10, 5)])
def test_the_expected_width_is_that_of_simulated_experiments(components, trainings, blocks):
    """Known from three trainings on two blocks; within 11 %, since the pooling is not in it."""
    rng = np.random.default_rng(trainings * blocks)
    found = crossed_mean([draw(rng, components, trainings, blocks, 4000)])
    widths = stats.t.ppf(0.975, found.error.degrees) * np.sqrt(found.error.variance)
    expected = with_components(components, 3, 2).expected_half_width(trainings, blocks)
    assert expected == pytest.approx(widths.mean(), rel=0.11)


def test_trainings_and_blocks_buy_what_their_variances_allow():
    """Where samples add nothing, only trainings help; where blocks differ, more of them do."""
    trainings_only = with_components(Components(1, 0, 0, 1), 3, 2)
    assert trainings_only.expected_half_width(3, 2) == trainings_only.expected_half_width(3, 9)
    assert trainings_only.expected_half_width(6, 2) < trainings_only.expected_half_width(3, 2) / 2
    samples = with_components(Components(0.1, 1, 0.1, 1), 5, 2)
    widths = [samples.expected_half_width(5, blocks) for blocks in (2, 3, 6)]
    assert widths == sorted(widths, reverse=True)
    assert samples.expected_half_width(500, 3) > 0.5 * samples.expected_half_width(5, 3)
    assert samples.more_trainings is None  # the blocks alone hide a difference of 0.1


CALIBRATED = [
    Components(1, 0.03, 0.3, 1),  # trainings differ most
    Components(1, 0.1, 1, 1),  # a block is as uncertain as a training
    Components(0, 0, 1, 1),  # nothing but noise of the samples
]


def p_values(found):
    ratio = abs(found.value) / np.sqrt(found.error.variance)
    return 2 * stats.t.sf(ratio, found.error.degrees)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("trainings", [2, 3, 5, 10])
@pytest.mark.parametrize("components", CALIBRATED)
def test_intervals_cover_at_95_percent(trainings, blocks, components):
    """95 ± 2 % of 8000, and at most 2.5 % (+ three standard errors: 0.5 %) false improvements.

    An interval from one block is of the difference on the images of that block.
    """
    if blocks == 1:
        components = replace(components, samples=0)
    rng = np.random.default_rng([trainings, blocks])
    found = crossed_mean([draw(rng, components, trainings, blocks, 8000)])
    settled = p_values(found) <= 0.05
    assert 0.93 <= 1 - settled.mean() <= 0.97
    assert (settled & (found.value < 0)).mean() <= 0.03


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("trainings", [3, 5])
def test_a_ladder_without_effects_has_few_false_steps(trainings, blocks):
    """Of 2000 ladders of seven configs without a difference, at most 5 % (+ three standard errors: 1.5 %)
    have a step that is called settled; without the correction, more than an eighth would.

    Steps that follow each other have a config in common.
    """
    rng = np.random.default_rng([trainings, blocks])
    variances = replace(CALIBRATED[0], samples=0.1 if blocks > 1 else 0)
    configs = [draw(rng, variances, trainings, blocks, 2000) for _ in range(7)]
    found = [crossed_mean([change - base]) for base, change in pairwise(configs)]
    found = np.stack([p_values(step) for step in found], axis=1)
    blank = of_values([[1.0], [2.0]])
    corrected = [adjust([replace(blank, p_value=p) for p in ladder]) for ladder in found]
    false = np.mean([any(step.settled for step in ladder) for ladder in corrected])
    assert false <= 0.065
    assert (found.min(axis=1) <= 0.05).mean() > 0.125
