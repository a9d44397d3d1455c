"""Numbers of networks, images and evaluations of a sweep."""

import pytest
from tiny import ROOT, write_params

from edm2.metrics.search import Search
from edm2.params import load
from edm2.params.evaluation import Sampling
from edm2.planning.sampling import evaluations, search_text, sweep_of
from edm2.sampling.solver import noise_levels

DEFAULT = load(ROOT / "params.yaml")


@pytest.fixture
def changed(tmp_path):
    return lambda changes: load(write_params(tmp_path / "params.yaml", changes))


def with_guide(guide, **changes):
    return {"guidance.guide": guide, "guidance.strength": [1.0, 2.0], **changes}


def test_the_default_sweep():
    sweep = sweep_of("G", DEFAULT)
    assert (sweep.networks, sweep.guides) == (12, 0)
    assert sweep.images == {1.0: 13 * 1000}  # the best is confirmed
    assert evaluations(DEFAULT, 1.0) == (15, 0)  # 8 steps of Heun's method, the last of Euler's


def test_times_and_tensors_multiply_networks(changed):
    params = changed(
        {
            "sweep.ema_lengths": [0.05, 0.1],
            "sweep.nimg": [51200, 102400],
            "sweep.tensors": ["enc-*", "dec-*", "*-affine"],
            "sweep.tensors_base": 0.1,
            "evaluation.seed_blocks": 3,
            "evaluation.confirm": False,
        }
    )
    sweep = sweep_of("G", params)
    assert sweep.networks == 2 * 2 + 3 * 2
    assert sweep.images == {1.0: 10 * 3 * 1000}


def test_a_traditional_average_has_one_length(changed):
    assert sweep_of("A", changed({"configs": ["A"], "sweep.nimg": [51200, 102400]})).networks == 2


def test_each_strength_generates_and_both_kinds_of_best_are_confirmed(changed):
    params = changed(with_guide("trained", **{"guidance.changes": {"channels": 16}}))
    sweep = sweep_of("G", params)
    assert sweep.guides == 12  # one of each length
    assert sweep.images == {1.0: 13000, 2.0: 13000}


def test_guides_that_are_networks_of_the_sweep_are_not_made_twice(changed):
    inside = changed(with_guide("snapshot", **{"guidance.ema_length": 0.2}))
    outside = changed(with_guide("snapshot", **{"guidance.ema_length": 0.25}))
    assert [sweep_of("G", params).guides for params in (inside, outside)] == [0, 1]


def test_guidance_evaluates_twice_within_its_interval(changed):
    def counts(guide, **changes):
        return evaluations(changed(with_guide(guide, **changes)), 2.0)

    snapshot = {"guidance.ema_length": 0.2}
    assert counts("snapshot", **snapshot) == (15, 15)
    assert counts("unlabeled", **{"diffusion.label_dropout": 0.1}) == (30, 0)
    assert evaluations(changed(with_guide("snapshot", **snapshot)), 1.0) == (15, 0)
    levels = noise_levels(8, 0.002, 80, 7).tolist()
    low, high = levels[5], levels[2]  # levels 2, 3, 4 are inside; Heun's method visits each twice
    inside = {"guidance.interval": [low * 1.001, high * 1.001]}
    assert counts("snapshot", **snapshot, **inside) == (15, 6)


def test_euler_evaluates_once_a_step(changed):
    params = changed({"sampling.solver": "euler", "sampling.steps": 5, "sampling.churn": 10})
    assert isinstance(params.sampling, Sampling)
    assert evaluations(params, 1.0) == (5, 0)


def test_images_of_a_search_are_between_bounds(changed):
    """Of one that ends after 10 blocks, with 4 of the first 6 lengths outside of its window, and of one that
    evaluates all lengths on all 100 blocks.
    """
    search = {"low": 0.01, "high": 0.25, "tolerance": 0.005}
    changes = {"sweep.search": search, "sweep.materialize": False, "evaluation.seed_blocks": 100}
    sweep = sweep_of("G", changed({**changes, "evaluation.confirm": False}))
    lengths = Search(**search, max_blocks=100).lengths
    assert (sweep.networks, sweep.guides) == (0, 0)
    assert sweep.fewest == 1000 * (6 * 10 + 5 * 4)
    assert sweep.most == 1000 * 100 * (len(lengths) + 1)
    assert sweep.images == {1.0: 1000 * (6 * 100 + 5 * 4)}
    confirmed = sweep_of("G", changed(changes))
    assert confirmed.images == {1.0: 1000 * (7 * 100 + 5 * 4)}
    fixed = sweep_of("A", changed({**changes, "configs": ["A"]}))
    assert (fixed.images, fixed.fewest, fixed.most) == ({1.0: 20_000}, 10_000, 10_000)
    both = search_text(changed({**changes, "configs": ["A", "G"]}))
    assert f"generate {sweep.fewest + 10_000} images" in both
    assert f"at most {sweep.most + 10_000}" in both
