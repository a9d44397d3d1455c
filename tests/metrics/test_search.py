"""The search for a minimum over EMA lengths, on curves with known minima and noise as it was measured."""

from collections import Counter

import numpy as np
import pytest

from edm2.metrics.minima import coordinate
from edm2.metrics.search import PILOT, START, WINDOW, Search

LOW, HIGH, TOLERANCE = 0.01, 0.25, 0.005
STRENGTHS = (1.25, 1.5, 1.75, 2.0, 2.25, 2.5)


class Experiment:
    """Values of a curve with noise, and how many blocks each length was evaluated on.

    The images of a block have a level and a slope in common; each value has a little noise of its own.
    """

    def __init__(self, curve, seed, slope=0.04, noise=0.003):
        rng = np.random.default_rng(seed)
        self.curve, self.seed, self.noise = curve, seed, noise
        self.blocks = rng.normal(0, (0.3, slope, slope), (1000, 3))
        self.evaluated = Counter()

    def __call__(self, points, count):
        for point in points:
            self.evaluated[point] = max(self.evaluated[point], count)
        return np.array([self._values(*point)[:count] for point in points])

    def _values(self, length, strength):
        rng = np.random.default_rng([self.seed, round(length * 1e6), round(strength * 1e6)])
        levels, slopes, by_strength = self.blocks.T
        own = rng.normal(0, self.noise, len(levels))
        common = levels + slopes * (coordinate(length) + 1) + by_strength * (strength - 1)
        at = (length,) if strength == 1 else (length, strength)
        return self.curve(*at) + common + own

    @property
    def evaluations(self):
        return sum(self.evaluated.values())


def steep_and_flat(best):
    """Falls steeply and rises slowly, cubic in the logarithm, as curves over EMA length mostly do."""

    def curve(length):
        x = np.log(length / best)
        return 2 + 0.1 * x**2 - 0.02 * x**3

    return curve


def powers(best):
    """One error that shorter averages have, and one that longer ones have."""
    return lambda length: 2 + 0.05 * (best / length + length / best)


def quadratic(best):
    return lambda length: 2 + 0.1 * (coordinate(length) - coordinate(best)) ** 2


def flat_bottom(best):
    return lambda length: 2 + 0.2 * (coordinate(length) - coordinate(best)) ** 4


def guided(best, strength):
    """Tilted: the best length is shorter at lower strengths."""

    def surface(length, w):
        x, z = coordinate(length) - coordinate(best), w - strength
        return 2 + 0.1 * x**2 + 0.01 * x**3 + 0.2 * z**2 - 0.1 * x * z

    return surface


def find(experiment, max_blocks=300):
    return Search(LOW, HIGH, TOLERANCE, max_blocks).find(experiment)


@pytest.mark.parametrize(
    ("curve", "best", "noise"),
    [
        (steep_and_flat, 0.05, {}),
        (steep_and_flat, 0.05, {"slope": 0.0, "noise": 0.01}),  # of each length alone
        (powers, 0.03, {}),
        (quadratic, 0.24, {}),  # near the edge
    ],
)
def test_intervals_cover_the_minimum(curve, best, noise):
    """In 95 % of 40 searches, less three standard errors of that: an interval may be longer than it must."""
    found = [find(Experiment(curve(best), seed, **noise)) for seed in range(40)]
    covered = [low <= best <= high for low, high in (each.interval for each in found)]
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 40)
    known = [each for each in found if each.is_known]
    assert len(known) > 35
    assert all(max(abs(end - k.place[0]) for end in k.interval) <= 1.001 * TOLERANCE for k in known)


@pytest.mark.parametrize("best", [0.02, 0.07, 0.15, 0.22])
def test_without_noise_it_is_found_with_few_evaluations(best):
    experiment = Experiment(powers(best), 0, slope=0.0, noise=1e-9)
    found = find(experiment)
    assert found.place[0] == pytest.approx(best, abs=1e-3)
    assert found.is_known
    assert not found.at_edge
    assert (len(found.window), found.blocks) == (WINDOW, PILOT)
    first = Search(LOW, HIGH, TOLERANCE, 300).first_points
    assert experiment.evaluations <= START * len(first) + PILOT * (WINDOW + 1)


def test_most_evaluations_are_near_the_minimum():
    experiment = Experiment(steep_and_flat(0.05), 3)
    found = find(experiment)
    near = sum(experiment.evaluated[point] for point in found.window)
    assert near > 0.6 * experiment.evaluations
    lengths = [length for length, _ in found.window]
    assert min(lengths) < 0.05 < max(lengths)
    assert all(LOW <= length <= HIGH for length, _ in experiment.evaluated)


@pytest.mark.parametrize(
    ("curve", "edge"), [(powers(0.001), LOW), (lambda x: 2 - 0.3 * coordinate(x), HIGH)]
)
def test_a_minimum_outside_of_the_range_is_at_its_edge(curve, edge):
    found = find(Experiment(curve, 0))
    assert found.at_edge
    assert found.place[0] == edge
    assert edge in found.interval


def test_of_two_minima_the_lower_one_is_found():
    """Also where the first blocks say that the other one is lower."""

    def curve(length):
        x = coordinate(length)
        deep, shallow = (x - coordinate(0.03)) ** 2, (x - coordinate(0.2)) ** 2
        return 2 + 0.2 * min(deep, shallow + 0.1)

    found = [find(Experiment(curve, seed)) for seed in range(8)]
    assert all(each.interval[0] <= 0.03 <= each.interval[1] for each in found)


def test_a_minimum_that_is_too_flat_stays_unknown():
    """Its interval is longer than the tolerance, and the search ends all the same."""
    experiment = Experiment(flat_bottom(0.1), 0)
    found = find(experiment, max_blocks=50)
    assert (found.is_known, found.blocks) == (False, 50)
    assert max(abs(end - found.place[0]) for end in found.interval) > TOLERANCE
    assert found.interval[0] < 0.1 < found.interval[1]
    assert max(experiment.evaluated.values()) == 50


def test_it_depends_on_nothing_but_the_values():
    """So launches that read the same results ask for the same evaluations."""
    asked = []
    for _ in range(2):
        experiment = Experiment(steep_and_flat(0.1), 4)
        calls = []
        found = find(lambda *call, e=experiment, calls=calls: calls.append(call) or e(*call))
        asked.append((calls, found))
    assert asked[0] == asked[1]


def test_a_narrow_range_has_enough_lengths():
    search = Search(0.1, 0.12, 0.002, 20)
    assert len(search.lengths) == WINDOW
    assert search.find(Experiment(powers(0.11), 1)).interval[0] >= 0.1


@pytest.mark.parametrize(("best", "strength"), [(0.08, 1.8), (0.15, 2.2)])
def test_with_several_strengths_both_intervals_cover(best, strength):
    """In 95 % of 20 searches, less three standard errors of that."""
    found = []
    for seed in range(20):
        experiment = Experiment(guided(best, strength), seed)
        found.append(Search(LOW, HIGH, 0.01, 300, STRENGTHS).find(experiment))
    lowest = 0.95 - 3 * np.sqrt(0.95 * 0.05 / 20)
    assert np.mean([f.interval[0] <= best <= f.interval[1] for f in found]) >= lowest
    assert np.mean([f.strengths[0] <= strength <= f.strengths[1] for f in found]) >= lowest
    known = [f for f in found if f.is_known]
    assert len(known) > 17
    share = 0.01 / (HIGH - LOW)
    assert all(max(abs(end - f.place[1]) for end in f.strengths) < 1.26 * share for f in known)


@pytest.mark.parametrize(("strength", "edge"), [(0.5, 1.25), (4.0, 2.5)])
def test_the_best_strength_may_be_an_end_of_the_range(strength, edge):
    found = Search(LOW, HIGH, 0.01, 300, STRENGTHS).find(Experiment(guided(0.1, strength), 0))
    assert found.place[1] == edge in found.strengths


def test_without_noise_both_are_found_between_the_points():
    experiment = Experiment(guided(0.1, 1.83), 0, slope=0.0, noise=1e-9)
    found = Search(LOW, HIGH, 0.01, 300, STRENGTHS).find(experiment)
    assert found.place == pytest.approx((0.1, 1.83), rel=1e-2)
    assert found.is_known
    assert len(found.window) == WINDOW * 3
    assert experiment.evaluations <= 300
