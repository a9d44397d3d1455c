"""Experiments side by side."""

import math

import pytest
from network_rows import concatenated, network_rows
from PIL import Image

from edm2.params import UserError
from edm2.reporting import compare
from edm2.reporting.compare import (
    Experiment,
    compare_experiments,
    draw_comparison,
    variants,
    variants_table,
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


def test_a_row_has_the_params_that_differ_and_the_best_length():
    same = {"seed": 0, RATE: 0.01}
    table = compare_experiments(
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
    assert table["reconstruction error"].tolist() == [0.01, 0.01]
    assert table[RELATIVE].tolist() == pytest.approx([1, 0.25])


def test_a_row_has_the_values_that_its_config_uses():
    """Config A has a rate of its own, which hides the swept one: both its rows show that."""
    own = "diffusion.per_config.A.lr_ref"
    experiments = {
        name: experiment({RATE: rate, own: 0.002}, {"A": {RATE: 0.002}}, configs="AG")
        for name, rate in (("a", 0.01), ("b", 0.04))
    }
    table = compare_experiments(experiments)
    assert table["config"].tolist() == ["A", "G"] * 2
    assert table[RATE].tolist() == [0.002, 0.01, 0.002, 0.04]
    assert own not in table


def test_a_param_that_differs_for_one_config_only_has_a_column():
    """And it counts in the decay time of that config."""
    both = {RATE: 0.01, DECAY: 100}
    experiments = {"a": experiment(both), "b": experiment(both, {"G": {RATE: 0.02}})}
    table = compare_experiments(experiments)
    assert table[RATE].tolist() == [0.01, 0.02]
    assert table[RELATIVE].tolist() == pytest.approx([1, 0.25])


def test_configs_of_one_experiment_may_use_different_values():
    """Only differences between experiments have a column."""
    used = {"A": {RATE: 0.002}}
    experiments = {
        name: experiment({"seed": seed, RATE: 0.01}, used, configs="AG")
        for name, seed in (("a", 0), ("b", 1))
    }
    table = compare_experiments(experiments)
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert RATE not in table


def test_a_constant_rate_has_no_decay_time():
    """The values of the others are relative to the first one that has it."""
    both = {RATE: 0.01, DECAY: 100}
    experiments = {
        "a": experiment(both, {"A": {DECAY: math.inf}}, configs="AG"),
        "b": experiment({RATE: 0.02, DECAY: 100}),
    }
    relative = compare_experiments(experiments)[RELATIVE]
    assert math.isnan(relative[0])
    assert relative[1:].tolist() == pytest.approx([1, 0.25])


def test_several_seed_blocks_give_the_best_length_an_interval():
    """Of a parabola in the logarithm around 0.1, which every block sees at a level of its own."""
    lengths = (0.025, 0.05, 0.1, 0.2, 0.4)
    values = [math.log(length / 0.1) ** 2 for length in lengths]
    blocks = [network_rows([v + k for v in values], lengths, first_seed=1000 * k) for k in range(3)]
    found = compare_experiments({"a": Experiment(concatenated(*blocks), {}, {"G": {}})})
    assert found["its interval"].tolist() == ["0.1 to 0.1"]
    assert "its interval" not in compare_experiments({"a": experiment({})})


def test_different_metrics_are_refused():
    other = experiment({})
    other.networks["metric"] = other.networks["metric"].str.replace("1k", "2k")
    with pytest.raises(UserError, match="a fd_classifier_1k, b fd_classifier_2k"):
        compare_experiments({"a": experiment({}), "b": other})


@pytest.fixture
def curve_names(monkeypatch):
    """Names of the curves that are drawn."""
    names, draw = [], compare.draw_curve
    monkeypatch.setattr(
        compare,
        "draw_curve",
        lambda axes, name, curve: names.append(name) or draw(axes, name, curve),
    )
    return names


def test_the_legend_has_the_params_that_differ(tmp_path, curve_names):
    experiments = {
        "a": experiment({"x.y": None, "seed": 0}),
        "b": experiment({"x.y": 2.0, "seed": 0}),
    }
    draw_comparison(experiments, tmp_path / "compare.png")
    assert curve_names == ["a G-0 (y null)", "b G-0 (y 2)"]
    with Image.open(tmp_path / "compare.png") as figure:
        assert figure.width > 800


@pytest.mark.parametrize("count", [0, 4])
def test_the_legend_has_no_params_if_none_or_many_differ(tmp_path, curve_names, count):
    params = {f"p{k}": k for k in range(count)}
    experiments = {"a": experiment(params), "b": experiment({})}
    draw_comparison(experiments, tmp_path / "compare.png")
    assert curve_names == ["a G-0", "b G-0"]


def vae(psnr, **params):
    """Metrics of a VAE, and its flat params."""
    flat = {"vae.seed": 0, "vae.variance": 0.1, "vae.losses.mse": 0.0, **params}
    return {"psnr": psnr, "latent/std": 2.0, "latent/mean_0": 0.3}, flat


VAES = {
    "b1": vae(31.0, **{"vae.seed": 1}),
    "b0": vae(29.0),
    "v0": vae(35.0, **{"vae.variance": 0}),
    "p1": vae(20.0, **{"vae.seed": 1, "vae.losses.mse": 0.1, "vae.variance": "learned"}),
    "b2": vae(30.0, **{"vae.seed": 2}),
}


def test_experiments_that_differ_only_in_their_seed_are_one_variant():
    assert variants(VAES) == {
        "base": ["b0", "b1", "b2"],
        "vae.losses.mse=0.1, vae.variance=learned": ["p1"],
        "vae.variance=0": ["v0"],
    }


def test_a_variant_has_mean_and_standard_deviation_over_its_seeds():
    table = variants_table(VAES).set_index("variant")
    assert table["seeds"].tolist() == [3, 1, 1]
    assert table.loc["base", "psnr"] == "30 ± 1"  # sample standard deviation of 29, 30, 31
    assert table.loc["vae.variance=0", "psnr"] == "35"
    assert list(table.columns) == ["seeds", "psnr", "latent/std"]


def test_a_metric_that_a_seed_does_not_have_has_no_mean():
    """Exact reconstructions have no PSNR."""
    metrics, params = VAES["b1"]
    others = {key: value for key, value in metrics.items() if key != "psnr"}
    table = variants_table({**VAES, "b1": (others, params)}).set_index("variant")
    assert table.loc["base", "psnr"] == "nan ± nan"


def test_a_classifier_at_chance_marks_a_variant():
    """Its perceptual distances and those of its reconstructions are those of an untrained network."""
    metrics, params = VAES["v0"]
    marked = {**VAES, "v0": ({**metrics, "at_chance": True}, params)}
    table = variants_table(marked).set_index("variant")
    assert table["classifier at chance"].to_dict()["vae.variance=0"] == "yes"
    assert table["classifier at chance"].count() == 1
