"""null stands for the paper's value; anything else, zero included, is taken."""

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
SWITCHES = {
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
    """Everything null that may be."""
    null = dict.fromkeys((*NUMBERS, "lr_decay_batches"))
    return diffusion_params(**{**null, "batch": batch, **changes})


def row(dataset, size):
    """Of the paper's sizes; the dropout of a size comes from its row, α_ref of D to G too."""
    return MODELS.loc[dataset, size]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("dataset", "size"), [(None, None), *MODELS.index])
def test_null_is_the_papers_value(config, dataset, size):
    """Of Table 1 for the config; of Tables 2 and 6 for size and data set.

    Sizes set rates where layers preserve magnitude (D on) and dropout where it is larger; data
    sets set the noise levels of B on, and the decay time of E on.
    """
    changes = {"size": size, "channels": None, "paper_dataset": dataset} if size else {}
    found, paper = resolve(config, params(**changes)), PAPER_CONFIGS.loc[config]
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
        own = row(dataset, size)
        expected["dropout"] = max(paper.dropout, own.dropout)
        expected |= {"lr_ref": own.lr_ref} if config in "DEFG" else {}
        expected |= {"p_mean": own.p_mean, "p_std": own.p_std} if config != "A" else {}
        expected |= {"lr_decay_batches": own.lr_decay_batches} if config in "EFG" else {}
    assert found == replace(CONFIGS[config], **expected)


def test_numbers_of_imagenet_64_by_hand():
    """P_mean −0.8, P_std 1.6, t_ref 35000, but EDM's noise levels in A and no decay up to D."""
    found = {c: resolve(c, params(paper_dataset="imagenet-64")) for c in CONFIGS}
    assert {c: (f.p_mean, f.p_std) for c, f in found.items()} == {
        "A": (-1.2, 1.2),
        **dict.fromkeys("BCDEFG", (-0.8, 1.6)),
    }
    assert {c: f.lr_decay_batches for c, f in found.items()} == {
        **dict.fromkeys("ABCD", inf),
        **dict.fromkeys("EFG", 35_000),
    }


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_overrides_its_field_alone(field):
    """Those of a size too; and zero is no null."""
    shape = {"size": "M", "channels": None}
    for config in CONFIGS:
        paper, value = resolve(config, params(**shape)), NUMBERS[field]
        found = resolve(config, params(**shape, **{field: value}))
        assert found == replace(paper, **{field: value})
        assert found != paper, config


def test_the_table_has_every_switch():
    seams = {"backbone", "objective"}  # of one member each; tests/plugins adds others
    assert set(SWITCHES) | seams == set(Overrides.model_fields)


@pytest.mark.parametrize("field", SWITCHES)
def test_a_switch_overrides_its_field_alone(field):
    for config in CONFIGS:
        paper = resolve(config, params())
        for value in SWITCHES[field]:
            found = resolve(config, params(overrides={field: value}))
            assert found == replace(paper, **{field: value}), (config, value)


def test_decay_time_moves_the_decay_where_there_is_one():
    found = {c: resolve(c, params(lr_decay_batches=500.0)).lr_decay_batches for c in CONFIGS}
    assert found == {c: inf if c in "ABCD" else 500.0 for c in CONFIGS}


def test_fields_of_one_config_change_it_alone():
    changes = {"lr_ref": 0.5, "batch": 4, "size": "XXS", "overrides": {"bias": True}}
    given = params(per_config={"C": changes}, overrides={"output_silu": False})
    for config in CONFIGS:
        common = replace(CONFIGS[config], batch=8, output_silu=False)
        own = replace(common, batch=4, lr_ref=0.5, bias=True)
        assert resolve(config, given) == (own if config == "C" else common), config


CONTRADICTIONS = [
    # config, options that contradict each other, the option and value named, options that fix it
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


@pytest.mark.parametrize(("config", "options", "named", "fix"), CONTRADICTIONS)
def test_load_refuses_contradictory_options(tmp_path, config, options, named, fix):
    def check(options):
        changes = {f"diffusion.overrides.{key}": value for key, value in options.items()}
        load(write_params(tmp_path / "p.yaml", {"configs": [config], **changes}))

    with pytest.raises(ParamsError) as error:
        check(options)
    (problem,) = error.value.problems
    assert (problem.key.partition(" ")[0], problem.value) == (
        f"diffusion.overrides.{named[0]}",
        named[1],
    )
    check(fix)


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
def test_the_configs_and_sensible_mixtures_have_no_contradictions(config, options):
    assert list(contradictions(resolve(config, params(overrides=options)))) == []
