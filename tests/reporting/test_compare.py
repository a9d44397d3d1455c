"""Experiments side by side."""

import math

import pytest
from network_rows import concatenated, network_rows

from edm2.metrics.minima import coordinate
from edm2.params import UserError
from edm2.reporting.changes import Changes, Experiment
from edm2.reporting.compare import (
    comparison_chart,
    configs_table,
    differing_params,
    one_metric,
    trainings_table,
)

RATE, DECAY = "diffusion.lr_ref", "diffusion.lr_decay_batches"
RELATIVE = "1/(lr_ref² lr_decay), relative"


def experiment(params, used=None, values=(3.0, 1.0, 2.0), configs="G", **columns):
    """Of one EMA curve for all configs, which use the params as written unless `used` says more."""
    return Experiment(
        concatenated(*(network_rows(values, config=config, **columns) for config in configs)),
        params,
        {config: {**params, **(used or {}).get(config, {})} for config in configs},
    )


def table_of(experiments):
    return configs_table(Changes.between(experiments).variants, differing_params(experiments))


def test_a_row_has_the_params_that_differ_and_the_best_length():
    same = {"seed": 0, RATE: 0.01}
    table = table_of(
        {
            "a": experiment({**same, DECAY: 100}),
            "b": experiment({**same, DECAY: 400}, values=(1.0, 2.0, 3.0)),
        }
    )
    assert not {"seed", RATE} & set(table)
    assert table[DECAY].tolist() == [100, 400]
    assert table["fd_classifier_1k"].tolist() == [1.0, 1.0]
    assert table["best EMA length"].tolist() == [0.1, 0.05]
    assert table["at edge of grid"].tolist() == ["no", "yes"]
    assert table[RELATIVE].tolist() == pytest.approx([1, 0.25])


def test_a_row_has_the_values_that_its_config_uses():
    """Config A has a rate of its own, which hides the swept one: both its rows show that."""
    own = "diffusion.per_config.A.lr_ref"
    experiments = {
        name: experiment({RATE: rate, own: 0.002}, {"A": {RATE: 0.002}}, configs="AG")
        for name, rate in (("a", 0.01), ("b", 0.04))
    }
    table = table_of(experiments)
    assert table["config"].tolist() == ["A", "G"] * 2
    assert table[RATE].tolist() == [0.002, 0.01, 0.002, 0.04]
    assert own not in table


def test_a_param_that_differs_for_one_config_only_has_a_column():
    """And it counts in the decay time of that config."""
    both = {RATE: 0.01, DECAY: 100}
    experiments = {"a": experiment(both), "b": experiment(both, {"G": {RATE: 0.02}})}
    table = table_of(experiments)
    assert table[RATE].tolist() == [0.01, 0.02]
    assert table[RELATIVE].tolist() == pytest.approx([1, 0.25])


def test_configs_of_one_experiment_may_use_different_values():
    """Only differences between experiments have a column."""
    used = {"A": {RATE: 0.002}}
    experiments = {
        name: experiment({"seed": seed, RATE: 0.01}, used, configs="AG")
        for name, seed in (("a", 0), ("b", 1))
    }
    table = table_of(experiments)
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert RATE not in table


def test_a_constant_rate_has_no_decay_time():
    """The values of the others are relative to the first one that has it."""
    both = {RATE: 0.01, DECAY: 100}
    experiments = {
        "a": experiment(both, {"A": {DECAY: math.inf}}, configs="AG"),
        "b": experiment({RATE: 0.02, DECAY: 100}),
    }
    relative = table_of(experiments)[RELATIVE]
    assert math.isnan(relative[0])
    assert relative[1:].tolist() == pytest.approx([1, 0.25])


def trained(seeds, values=(3.0, 1.0, 2.0), **columns):
    """Trainings whose curves are shifted by a tenth of their seed."""
    rows = [
        network_rows([v + 0.1 * seed for v in values], training_seed=seed, **columns)
        for seed in seeds
    ]
    return Experiment(concatenated(*rows), {}, {"G": {}})


def test_a_row_is_over_all_trainings():
    """Of 1.0, 1.1 and 1.5: mean 1.2, and half an interval of 4.303 times 0.1528, the standard error."""
    row = table_of({"a": trained((0, 1, 5))}).iloc[0]
    assert row["trainings"] == 3
    assert row["fd_classifier_1k"] == pytest.approx(1.2)
    assert row["low"] == pytest.approx(1.2 - 4.303 * 0.15275, abs=1e-4)
    assert row["high"] == pytest.approx(1.2 + 4.303 * 0.15275, abs=1e-4)
    assert row["each training"] == "0: 1, 1: 1.1, 5: 1.5"
    assert row["valued on"] == "the same images"
    assert row["best EMA length"] == 0.1


def test_one_training_has_no_interval():
    row = table_of({"a": trained((0,))}).iloc[0]
    assert row[["low", "high"]].isna().all()


def test_the_best_length_of_several_trainings_is_that_of_their_mean():
    """Its interval is from the differences between trainings: the minima are at 0.05 and 0.15."""
    lengths = (0.025, 0.05, 0.1, 0.15, 0.2)
    curves = [[(coordinate(s) - coordinate(best)) ** 2 for s in lengths] for best in (0.05, 0.15)]
    rows = [network_rows(c, lengths, training_seed=k) for k, c in enumerate(curves)]
    row = table_of({"a": Experiment(concatenated(*rows), {}, {"G": {}})}).iloc[0]
    assert row["best EMA length"] == 0.1
    low, high = map(float, row["its interval"].split(" to "))
    assert low < 0.05 < 0.15 < high


def test_trainings_have_a_row_each_with_how_far_to_trust_it():
    table = trainings_table(Changes.between({"a": trained((0, 3), error=0.02)}).variants)
    assert table["training_seed"].tolist() == [0, 3]
    assert table["fd_classifier_1k"].tolist() == pytest.approx([1.0, 1.3])
    assert table["reconstruction error"].tolist() == [0.02] * 2


def test_several_seed_blocks_give_the_best_length_an_interval():
    """Of a parabola around 0.1, which every block sees at a level of its own."""
    lengths = (0.025, 0.05, 0.1, 0.15, 0.2)
    values = [(coordinate(length) - coordinate(0.1)) ** 2 for length in lengths]
    blocks = [network_rows([v + k for v in values], lengths, first_seed=1000 * k) for k in range(3)]
    found = table_of({"a": Experiment(concatenated(*blocks), {}, {"G": {}})})
    assert found["its interval"].tolist() == ["0.1 to 0.1"]
    assert "its interval" not in table_of({"a": experiment({})})


def test_different_metrics_are_refused():
    other = experiment({})
    other.networks["metric"] = other.networks["metric"].str.replace("1k", "2k")
    with pytest.raises(UserError, match="a fd_classifier_1k, b fd_classifier_2k"):
        one_metric({"a": experiment({}), "b": other})


def curve_names(experiments):
    """Names of the curves in the chart, without their minima."""
    spec = comparison_chart(Changes.between(experiments).variants, differing_params(experiments))
    labels = spec["encoding"]["color"]["scale"]["domain"]
    return [label.partition(":")[0] for label in labels]


def test_the_legend_has_the_params_that_differ():
    experiments = {
        "a": experiment({"x.y": None, "seed": 0}),
        "b": experiment({"x.y": 2.0, "seed": 0}),
    }
    assert curve_names(experiments) == ["a G (y null)", "b G (y 2)"]


@pytest.mark.parametrize("count", [0, 4])
def test_the_legend_has_no_params_if_none_or_many_differ(count):
    experiments = {"a": experiment({f"p{k}": k for k in range(count)}), "b": experiment({})}
    assert curve_names(experiments) == ["a G", "b G"]
