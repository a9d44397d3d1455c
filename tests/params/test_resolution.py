"""null is replaced by the paper's value; every other value, zero included, is kept."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pandas as pd
import pytest
from tiny import write_params
from tiny_denoiser import diffusion_params

import edm2
from edm2.params import ParamsError, load
from edm2.params.configs import CONFIGS
from edm2.params.diffusion import Overrides
from edm2.params.resolution import contradictions, resolve

PAPER = Path(edm2.__file__).parent / "reporting" / "paper"
PAPER_CONFIGS = pd.read_csv(PAPER / "configs.csv").set_index("config")
MODELS = pd.read_csv(PAPER / "models.csv").set_index(["dataset", "size"])
NUMBERS = {
    "attention_resolutions": (4,),
    "dropout": 0.0,
    "lr_ref": 0.003,
    "p_mean": 0.0,
    "p_std": 1.7,
    "lr_rampup_nimg": 640,
    "adam_beta2": 0.95,
}
OPTIONS = {
    "noise_embedding": ("positional", "fourier", "mp_fourier"),
    "embedding_layers": (1, 2),
    "bias": (False, True),
    "ones_channel": (False, True),
    "scaled_labels": (False, True),
    "group_norm": ("standard", "no_mean", "none"),
    "pixel_norm": (False, True),
    "attention": ("dot", "cosine"),
    "attention_fp32": (False, True),
    "initialization": ("zero_ends", "uniform", "normal"),
    "weight_norm": ("none", "forward", "forced"),
    "magnitude_preserving": (False, True),
    "output_silu": (False, True),
    "uncertainty": (False, True),
    "average": ("traditional", "power"),
    "loss_scaling": (3.5,),
}


def params(batch=8, **changes):
    """Params in which every field that may be null is null."""
    null = dict.fromkeys((*NUMBERS, "lr_decay_batches"))
    return diffusion_params(**{**null, "batch": batch, **changes})


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("dataset", "size"), [(None, None), *MODELS.index])
def test_null_is_the_papers_value(config, dataset, size):
    """From Table 1 for the config, and from Tables 2 and 6 for size and dataset.

    Sizes set the learning rate from D on, and dropout if theirs is larger; datasets set the noise
    levels from B on, and the decay time from E on.
    """
    changes = {"size": size, "channels": None, "paper_dataset": dataset} if size else {}
    paper = PAPER_CONFIGS.loc[config]
    expected = {
        "batch": 8,
        "loss_scaling": paper.loss_scaling,
        "adam_beta2": paper.adam_beta2,
        "lr_rampup_nimg": paper.lr_rampup_mimg * 1e6,
        "lr_ref": paper.lr_ref,
        "lr_decay_batches": paper.lr_decay_batches,
        "p_mean": paper.p_mean,
        "p_std": paper.p_std,
        "dropout": paper.dropout,
        "attention_resolutions": tuple(map(int, paper.attention_resolutions.split(";"))),
    }
    if size:
        model = MODELS.loc[dataset, size]
        expected["dropout"] = max(paper.dropout, model.dropout)
        expected |= {"lr_ref": model.lr_ref} if config in "DEFG" else {}
        expected |= {"p_mean": model.p_mean, "p_std": model.p_std} if config != "A" else {}
        expected |= {"lr_decay_batches": model.lr_decay_batches} if config in "EFG" else {}
    assert resolve(config, params(**changes)) == replace(CONFIGS[config], **expected)


def test_numbers_of_imagenet_64():
    """P_mean −0.8, P_std 1.6 and t_ref 35000; A keeps EDM's noise levels, A to D do not decay."""
    resolved = {c: resolve(c, params(paper_dataset="imagenet-64")) for c in CONFIGS}
    assert {c: (r.p_mean, r.p_std) for c, r in resolved.items()} == {
        "A": (-1.2, 1.2),
        **dict.fromkeys("BCDEFG", (-0.8, 1.6)),
    }
    assert {c: r.lr_decay_batches for c, r in resolved.items()} == {
        **dict.fromkeys("ABCD", inf),
        **dict.fromkeys("EFG", 35_000),
    }


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_changes_only_its_field(field):
    """Even if the size sets it; zero is not null."""
    shape = {"size": "M", "channels": None}
    for config in CONFIGS:
        paper, value = resolve(config, params(**shape)), NUMBERS[field]
        resolved = resolve(config, params(**shape, **{field: value}))
        assert resolved == replace(paper, **{field: value})
        assert resolved != paper, config


def test_options_lists_every_override():
    seams = {"backbone", "objective"}  # have one member each; tests/plugins adds others
    assert set(OPTIONS) | seams == set(Overrides.model_fields)


@pytest.mark.parametrize("field", OPTIONS)
def test_an_override_changes_only_its_option(field):
    for config in CONFIGS:
        paper = resolve(config, params())
        for value in OPTIONS[field]:
            resolved = resolve(config, params(overrides={field: value}))
            assert resolved == replace(paper, **{field: value}), (config, value)


def test_decay_time_has_no_effect_on_configs_with_constant_rate():
    times = {c: resolve(c, params(lr_decay_batches=500.0)).lr_decay_batches for c in CONFIGS}
    assert times == {c: inf if c in "ABCD" else 500.0 for c in CONFIGS}


def test_per_config_values_change_only_that_config():
    changes = {"lr_ref": 0.5, "batch": 4, "size": "XXS", "overrides": {"bias": True}}
    changed = params(per_config={"C": changes}, overrides={"output_silu": False})
    for config in CONFIGS:
        common = replace(CONFIGS[config], batch=8, output_silu=False)
        changed_config = replace(common, batch=4, lr_ref=0.5, bias=True)
        assert resolve(config, changed) == (changed_config if config == "C" else common), config


CONTRADICTIONS = [
    # config, contradictory options, option and value in the error, corrected options
    (
        "G",
        {"initialization": "zero_ends"},
        ("weight_norm", "forced"),
        {"initialization": "uniform"},
    ),
    (
        "A",
        {"weight_norm": "forward"},
        ("weight_norm", "forward"),
        {"weight_norm": "forward", "initialization": "normal"},
    ),
    (
        "D",
        {"weight_norm": "none"},
        ("weight_norm", "none"),
        {"weight_norm": "none", "initialization": "uniform"},
    ),
    (
        "G",
        {"attention": "dot"},
        ("attention", "dot"),
        {"attention": "dot", "group_norm": "no_mean"},
    ),
    (
        "A",
        {"group_norm": "none"},
        ("attention", "dot"),
        {"group_norm": "none", "attention": "cosine"},
    ),
    ("A", {"bias": False}, ("bias", False), {"bias": False, "group_norm": "no_mean"}),
    (
        "G",
        {"group_norm": "standard"},
        ("bias", False),
        {"group_norm": "standard", "bias": True},
    ),
]


@pytest.mark.parametrize(("config", "options", "named", "corrected"), CONTRADICTIONS)
def test_load_rejects_contradictory_options(tmp_path, config, options, named, corrected):
    def load_with(options):
        changes = {f"diffusion.overrides.{key}": value for key, value in options.items()}
        load(write_params(tmp_path / "p.yaml", {"configs": [config], **changes}))

    with pytest.raises(ParamsError) as error:
        load_with(options)
    (problem,) = error.value.problems
    assert (problem.key.partition(" ")[0], problem.value) == (
        f"diffusion.overrides.{named[0]}",
        named[1],
    )
    load_with(corrected)


def test_load_lists_the_contradictions_of_all_configs(tmp_path):
    changes = {
        "configs": ["A", "D", "G"],
        "diffusion.overrides.group_norm": "none",
        "diffusion.overrides.attention": "dot",
        "diffusion.overrides.weight_norm": "none",
        "diffusion.per_config": {"D": {"overrides": {"attention": "cosine"}}},
    }
    with pytest.raises(ParamsError) as error:
        load(write_params(tmp_path / "params.yaml", changes))
    assert [problem.key for problem in error.value.problems] == [
        "diffusion.overrides.attention (config A, G)",
        "diffusion.overrides.weight_norm (config D, G)",
    ]


ACCEPTED = [
    *((config, {}) for config in CONFIGS),
    ("G", {"group_norm": "no_mean"}),
    ("C", {"weight_norm": "forced"}),
    ("A", {"bias": False, "group_norm": "no_mean"}),
]


@pytest.mark.parametrize(("config", "options"), ACCEPTED)
def test_configs_and_other_valid_combinations_are_accepted(config, options):
    assert list(contradictions(resolve(config, params(overrides=options)))) == []
