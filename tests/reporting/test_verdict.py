"""Verdicts on changes: which values are compared, and what is said."""

import numpy as np
import pytest
from network_rows import concatenated, network_rows

from edm2.params import UserError
from edm2.reporting.changes import Experiment
from edm2.reporting.verdict import compare_trainings, corrected, verdict_table, verdicts


def blocks(*curves, **columns):
    """The table of a training: an EMA curve for each seed block."""
    return concatenated(
        *(network_rows(values, first_seed=1000 * k, **columns) for k, values in enumerate(curves))
    )


def own_and_common(a, b):
    own, common = compare_trainings("F", "G", a, b)
    assert (own.ema_length, common.ema_length) == ("own best", "common")
    return own, common


def test_a_length_is_valued_on_the_blocks_that_did_not_choose_it():
    """Block 0 chooses 0.05, whose value in block 1 is 5; block 1 chooses 0.1: 4 in block 0."""
    base = {0: blocks((1.0, 4.0, 9.0), (5.0, 2.0, 9.0))}
    change = {0: blocks((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))}
    own, _ = own_and_common(base, change)
    assert own.effect.difference == pytest.approx(1.0 - (4 + 5) / 2)
    assert own.valued_on == "other seed blocks"


def test_the_common_length_is_best_for_all_trainings_together():
    """Length 0.1 has the lowest sum, although it is the best one of neither."""
    base = {0: blocks((1.0, 1.5, 9.0), (1.0, 1.5, 9.0))}
    change = {0: blocks((9.0, 1.2, 1.0), (9.0, 1.2, 1.0))}
    own, common = own_and_common(base, change)
    assert own.effect.difference == pytest.approx(0)
    assert common.effect.difference == pytest.approx(1.2 - 1.5)


def test_differences_are_those_of_pairs():
    def trainings(values):
        return {seed: blocks((3.0, value, 3.0)) for seed, value in values.items()}

    base = trainings({0: 2.0, 1: 2.5, 2: 2.1})
    own, common = own_and_common(base, trainings({1: 2.25, 0: 2.5}))
    assert own.differences == common.differences == {0: 0.5, 1: -0.25}
    unpaired, _ = own_and_common(base, trainings({5: 2.25, 6: 2.5}))
    assert unpaired.differences == {}


def test_with_one_block_the_best_network_is_valued_on_fresh_seeds():
    def training(curve, fresh):
        rows = blocks(curve)
        best = rows[(rows["value"] == min(curve)) & (rows["samples"] == 1000)]
        return concatenated(rows, best.assign(seeds="fresh", value=fresh, first_seed=1000))

    own, common = own_and_common(
        {0: training((3.0, 1.0, 2.0), 1.4)}, {0: training((3.0, 2.0, 0.5), 0.7)}
    )
    assert own.effect.difference == pytest.approx(0.7 - 1.4)
    assert own.valued_on == "fresh seeds"
    assert common.effect.difference == pytest.approx(0.5 - 2.0)
    assert common.valued_on == "the same images"


def test_without_fresh_seeds_of_one_both_are_valued_on_the_same_images():
    rows = blocks((3.0, 1.0, 2.0))
    best = rows[(rows["value"] == 1.0) & (rows["samples"] == 1000)]
    confirmed = concatenated(rows, best.assign(seeds="fresh", value=1.4, first_seed=1000))
    own, _ = own_and_common({0: confirmed}, {0: blocks((3.0, 2.0, 0.5))})
    assert own.effect.difference == pytest.approx(0.5 - 1.0)
    assert own.valued_on == "the same images"


def test_configs_without_a_common_length_are_compared_at_their_own():
    base = {0: blocks((2.0,), lengths=(0.07,))}
    (only,) = compare_trainings("A", "C", base, {0: blocks((3.0, 1.0, 2.0))})
    assert only.effect.difference == pytest.approx(-1)


def test_sentences():
    def verdict(differences, seeds=range(5)):
        base = {seed: blocks((3.0, 2.0, 3.0)) for seed in seeds}
        change = {
            seed: blocks((3.0, 2.0 + difference, 3.0))
            for seed, difference in zip(seeds, differences, strict=False)
        }
        return compare_trainings("F", "G", base, change)[0].sentence

    better = verdict((-0.1, -0.11, -0.1, -0.12, -0.12))
    assert better.startswith("F → G improves fd_classifier_1k by 0.11 [0.09")
    assert better.endswith("over 5 paired trainings on one seed block.")
    assert "G worsens fd_classifier_1k by 0.1 [" in verdict((0.1, 0.11, 0.1, 0.09, 0.1))
    unsettled = verdict((0.1, -0.2, 0.1, -0.1, -0.1))
    assert "F → G: not settled. fd_classifier_1k changes by -0.04 [-0.2" in unsettled
    assert "trainings on one seed block; needed: about " in unsettled
    assert "train with more seeds" in verdict((-0.5,), seeds=[0])
    assert "one pair of trainings (4 without a partner left out), which" in verdict((-0.5,))
    assert "over 3 paired trainings (2 without a partner left out) on" in verdict(
        (-0.1, -0.11, -0.1)
    )


def test_a_single_training_against_others_is_counted():
    base = {seed: blocks((3.0, 2.0, 3.0)) for seed in (1, 2, 3)}
    (own, _) = compare_trainings("F", "G", base, {0: blocks((3.0, 1.5, 3.0))})
    assert "changes by -0.5 between 3 and 1 trainings, which" in own.sentence


def test_each_of_several_steps_needs_a_smaller_p_value():
    """One of two steps is clear, the other is clear only by itself."""
    base = {seed: blocks((3.0, 2.0, 3.0)) for seed in range(3)}

    def change(*differences):
        return {seed: blocks((3.0, 2.0 + d, 3.0)) for seed, d in enumerate(differences)}

    weak = compare_trainings("A", "B", base, change(-0.1, -0.14, -0.2))
    strong = compare_trainings("A", "C", base, change(-0.5, -0.51, -0.50))
    assert weak[0].effect.settled
    table = verdict_table(corrected([*weak, *strong]))
    assert table.query("`EMA length` == 'own best'")["settled"].tolist() == ["yes", "yes"]
    weaker = compare_trainings("A", "B", base, change(-0.1, -0.14, -0.20))
    three = corrected([*weaker, *compare_trainings("A", "C", base, change(-0.1, -0.14, -0.21))])
    assert [v.effect.settled for v in three if v.ema_length == "own best"] == [False, False]


def test_an_interval_without_0_that_does_not_settle_is_explained():
    """Two of three steps are unclear, so the third one's p-value counts three times."""
    base = {seed: blocks((3.0, 2.0, 3.0)) for seed in range(3)}

    def change(*differences):
        steps = {seed: blocks((3.0, 2.0 + d, 3.0)) for seed, d in enumerate(differences)}
        return compare_trainings("A", "B", base, steps)

    weak, *_ = corrected([*change(-0.1, -0.14, -0.2), *change(0, 1, -2), *change(1, 0, -2)])
    assert weak.effect.interval[1] < 0
    assert not weak.effect.settled
    p = f"p = {weak.effect.p_value:.2g} of all"
    assert f"not settled; it would be if it were the only comparison ({p})" in weak.sentence


def test_seed_blocks_are_part_of_the_effect():
    """A change that is 1 lower in one block than in the other, in all trainings."""
    base = {seed: blocks(*[(9.0, 2.0 + seed, 9.0)] * 2) for seed in range(3)}
    change = {
        seed: blocks((9.0, 1.5 + seed, 9.0), (9.0, 0.5 + seed + 0.1 * seed, 9.0))
        for seed in range(3)
    }
    own, _ = own_and_common(base, change)
    assert own.effect.blocks == 2
    assert own.effect.sample_share > 0.9
    (row,) = verdict_table([own]).to_dict("records")
    assert (row["seed blocks"], row["variance from samples"]) == (2, own.effect.sample_share)


def test_trainings_that_were_evaluated_differently_are_refused():
    with pytest.raises(UserError, match="seeds 0, 1 were evaluated differently.*sweep.ema_lengths"):
        compare_trainings(
            "F", "G", {0: blocks((1.0, 2.0, 3.0)), 1: blocks((1.0, 2.0), lengths=(0.05, 0.1))}, {}
        )


def test_different_metrics_are_refused():
    other = blocks((1.0, 2.0, 3.0))
    other["metric"] = other["metric"].str.replace("1k", "2k")
    with pytest.raises(UserError, match="fd_classifier_1k, G with fd_classifier_2k"):
        compare_trainings("F", "G", {0: blocks((1.0, 2.0, 3.0))}, {0: other})


def test_different_numbers_of_seed_blocks_are_refused():
    curve = (1.0, 2.0, 3.0)
    with pytest.raises(UserError, match=r"F .* 1 seed blocks, G on 2.*evaluation\.seed_blocks"):
        compare_trainings("F", "G", {0: blocks(curve)}, {0: blocks(curve, curve)})


def test_the_choice_of_the_length_does_not_bias_the_difference():
    """Base has one length, change has nine of equal quality: minima of the same images would be lower."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(0.05, 0.25, 9).tolist()

    def training(count):
        return {
            seed: blocks(*rng.normal(2, 0.1, (4, count)).tolist(), lengths=lengths[:count])
            for seed in range(10)
        }

    own, _ = own_and_common(training(1), training(9))
    low, high = own.effect.interval
    assert low < 0 < high
    assert low > -0.1  # the mean minimum of nine is about 0.15 lower


def test_equal_trainings_are_named_so():
    same = {seed: blocks((3.0, 2.0, 3.0)) for seed in range(3)}
    assert "the same values in all 3" in compare_trainings("F", "F (b)", same, same)[0].sentence


def test_all_changes_of_a_comparison_are_corrected_together():
    def of(*values):
        rows = [network_rows((3.0, v, 3.0), training_seed=k) for k, v in enumerate(values)]
        return concatenated(*rows)

    found = verdicts(
        {
            "a": Experiment(of(2.0, 2.1, 2.2), {}, {}),
            "b": Experiment(of(1.0, 1.2, 1.1), {"rate": 2}, {"G": {"rate": 2}}),
            "c": Experiment(of(1.0, 1.2, 1.2), {"rate": 3}, {"G": {"rate": 3}}),
        }
    )
    own = [v for v in found if v.ema_length == "own best"]
    assert [(v.base, v.change) for v in own] == [("G", "G (rate=2)"), ("G", "G (rate=3)")]
    assert sorted(v.effect.comparisons for v in own) == [1, 2]
