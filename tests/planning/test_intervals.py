"""What more seeds and samples buy, from past runs, and what they cost."""

from types import SimpleNamespace

import pandas as pd
import pytest
from network_rows import concatenated, network_rows
from tiny import ROOT

from edm2.metrics.effects import effect
from edm2.params import UserError, load
from edm2.params.replicates import Replicate
from edm2.planning.intervals import Option, PastEffects, best_buy, options_of
from edm2.planning.plan import Plan, Row
from edm2.planning.text import intervals_text

DEFAULT = load(ROOT / "params.yaml")
BLOCKS = {0: [1.0, 1.4, 1.1], 1: [2.1, 2.6, 2.2], 2: [1.3, 1.6, 1.4]}  # by seed
EFFECT = effect({seed: [0.0] * 3 for seed in BLOCKS}, BLOCKS)


def params_with(seeds, blocks):
    evaluation = DEFAULT.evaluation.model_copy(update={"seed_blocks": blocks})
    return DEFAULT.model_copy(update={"seeds": seeds, "evaluation": evaluation})


def plan_of(params):
    """A plan whose trainings take 7 GPU hours on 2 GPUs, and evaluations 2 hours for each seed block."""

    def row(stage, seed, images, disk, hours):
        training = None if seed is None else Replicate("G", seed)
        name = stage if training is None else f"{stage}@{training}"
        group = stage if training is None else f"{stage}@G"
        return Row(name, group, training, images, 2, images * 10, 1, disk, 0, hours, None, None)

    # of the 12 networks of the default params, and the best one on fresh seeds
    blocks = params.evaluation.seed_blocks
    generated = 13 * 1000 * blocks
    rows = [row("prepare", None, 1797, 5000, 1.0)]
    for seed in params.seeds:
        rows.append(row("train_diffusion", seed, 100_000, 3000, 7.0))
        rows.append(row("fid", seed, generated, 0, 2.0 * blocks))
    return Plan(SimpleNamespace(), rows, [])


def test_options_cost_what_they_add():
    params = params_with((0, 4, 5), 2)
    options = options_of(plan_of(params), params, {"mean of G": EFFECT})
    assert [(o.seeds, o.seed_blocks, o.samples) for o in options] == [
        (3, 2, 1000),
        (4, 2, 1000),
        (3, 3, 1000),
        (3, 2, 2000),
    ]
    costs = [option.as_json() for option in options]
    # a training and its evaluation; a block, or two, of each of three trainings
    assert [cost["images"] for cost in costs] == [0, 126_000, 3 * 13_000, 3 * 26_000]
    assert [cost["gpu_hours"] for cost in costs] == pytest.approx([0, 11, 6, 12])
    assert [cost["disk_bytes"] for cost in costs] == [0, 3000, 0, 0]
    widths = [cost["half_widths"]["mean of G"] for cost in costs]
    counts = [(3, 2), (4, 2), (3, 3), (3, 4)]
    assert widths == [EFFECT.expected_half_width(*count) for count in counts]
    assert widths[0] > max(widths[1:])


def test_what_one_seed_block_does_not_show_is_said():
    params = params_with((0, 1), 1)
    single = effect({0: 1.0, 1: 2.0, 2: 2.5}, {0: 1.5, 1: 2.2, 2: 3.5})
    past = PastEffects("fd", {"F → G": single})
    options = options_of(plan_of(params), params, past.effects)
    text = intervals_text(plan_of(params), past, options)
    (line,) = (line.split() for line in text.splitlines() if line.startswith("F → G"))
    assert float(line[3]) > float(line[4]) > 0  # two and three seeds
    assert line[5:] == ["?", "?"]
    assert "`evaluation.seed_blocks: 3`" in text
    assert best_buy(options) is None


def test_a_single_training_has_no_width():
    params = params_with((0,), 3)
    past = PastEffects("fd", {"mean of G": EFFECT})
    options = options_of(plan_of(params), params, past.effects)
    text = intervals_text(plan_of(params), past, options)
    (line,) = (line.split() for line in text.splitlines() if line.startswith("mean of G"))
    assert line[3:] == ["none", f"{EFFECT.expected_half_width(2, 3):.3g}", "none", "none"]


def option(name, flops, **widths):
    row = Row("fid@G-0", "fid@G", Replicate("G", 0), 1, 1, flops, 1, 0, 0, None, None, None)
    return Option(name, 2, 1, 1, [row] if flops else [], widths)


def test_the_best_buy_is_that_of_the_most_narrowing_for_its_cost():
    now = option("now", 0, a=1.0, b=4.0)
    seed, block = option("seed", 100, a=0.5, b=1.0), option("block", 1, a=0.99, b=3.96)
    assert seed.narrowing(now) == pytest.approx(1 - 0.125**0.5)
    # log 2.83 for 100 is more than log 1.01 for 1
    assert best_buy([now, seed, block]) is seed
    assert best_buy([now, option("seed", 200, a=0.5, b=1.0), block]) is not seed
    assert best_buy([now, seed, option("block", 1, a=None, b=3.9)]) is None
    assert best_buy([now, option("block", 1, a=1.0, b=4.0)]) is None


def trainings(values, **columns):
    """Tables of networks: values by config and seed, at the best of three EMA lengths."""
    return concatenated(
        *(
            network_rows(
                (value + 1, value, value + 2), config=config, training_seed=seed, **columns
            )
            for config, of_seed in values.items()
            for seed, value in of_seed.items()
        )
    )


VALUES = {"F": {0: 3.0, 1: 4.0, 2: 5.0}, "G": {0: 2.5, 1: 3.0, 2: 4.5}}


def test_effects_are_steps_between_configs_in_the_order_of_the_table():
    past = PastEffects.of({"workspace": trainings(VALUES)})
    assert past.metric == "fd_classifier_1k"
    assert past.effects["F → G"].difference == pytest.approx((-0.5 - 1 - 0.5) / 3)
    assert list(past.effects) == ["F → G"]
    two = PastEffects.of({"a": trainings(VALUES), "b": trainings({"G": VALUES["G"]})})
    assert list(two.effects) == ["F → G (a)", "mean of G (b)"]


def test_of_a_single_config_it_is_the_mean():
    past = PastEffects.of({"workspace": trainings({"G": VALUES["G"]})})
    mean = past.effects["mean of G"]
    assert mean.difference == pytest.approx(10 / 3)
    assert mean.spread == pytest.approx(pd.Series(VALUES["G"]).std())
    assert "`evaluation.seed_blocks: 3`" in past.unknown


@pytest.mark.parametrize("networks", [{}, {"workspace": trainings({"F": {0: 3.0}, "G": {0: 2.0}})}])
def test_without_several_seeds_nothing_is_invented(networks):
    past, params = PastEffects.of(networks), params_with((0, 1), 2)
    assert options_of(plan_of(params), params, past.effects) == []
    text = intervals_text(plan_of(params), past, [])
    assert "`seeds: [0, 1]`" in text
    assert len(text.splitlines()) == 1


def test_trainings_that_cannot_be_compared_are_refused():
    table = concatenated(
        trainings({"F": {0: 3.0, 1: 4.0}}), trainings({"G": {0: 3.0, 1: 4.0}}, samples=500)
    )
    table.loc[table["config"] == "G", "metric"] = "fd_classifier_500"
    with pytest.raises(UserError) as error:
        PastEffects.of({"workspace": table})
    assert "fd_classifier_500" in str(error.value)
