"""null stands for the paper's value; anything else, zero included, is taken."""

from pathlib import Path

import pandas as pd
import pytest

import edm2
from edm2.diffusion.hyperparameters import hyperparameters
from edm2.diffusion.ladder import LADDER
from edm2.params.diffusion import Diffusion

PAPER = Path(edm2.__file__).parent / "reporting" / "paper"
CONFIGS = pd.read_csv(PAPER / "ladder.csv").set_index("config")
MODELS = pd.read_csv(PAPER / "models.csv")
SIZES = MODELS[MODELS.dataset == "imagenet-512"].set_index("size")


def params(**changes):
    fields = {
        "batch": 8, "duration_nimg": 64, "log_nimg": 8, "size": None, "channels": 16,
        "channel_mult": (1, 2), "blocks": 1, "attention_resolutions": (4,), "conditional": True,
        "p_mean": None, "p_std": None, "lr_ref": None, "lr_decay_batches": None,
        "lr_rampup_nimg": None, "adam_beta2": None, "dropout": None, "microbatch": None,
    }  # fmt: skip
    return Diffusion(**{**fields, **changes})


@pytest.mark.parametrize("config", LADDER)
def test_null_is_the_papers_value(config):
    found, paper = hyperparameters(config, params()), CONFIGS.loc[config]
    assert vars(found) == {
        "p_mean": paper.p_mean, "p_std": paper.p_std, "lr_ref": paper.lr_ref,
        "lr_decay_batches": paper.lr_decay_batches, "adam_beta2": paper.adam_beta2,
        "lr_rampup_nimg": paper.lr_rampup_mimg * 1e6, "loss_scaling": paper.loss_scaling,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [("p_mean", 0.0), ("p_std", 1.6), ("lr_ref", 0.003), ("lr_rampup_nimg", 640),
     ("adam_beta2", 0.95)],
)  # fmt: skip
def test_a_value_overrides_its_field_alone(field, value):
    for config in LADDER:
        paper = vars(hyperparameters(config, params()))
        assert vars(hyperparameters(config, params(**{field: value}))) == {**paper, field: value}


def test_decay_time_moves_the_decay_where_there_is_one():
    found = {c: hyperparameters(c, params(lr_decay_batches=500.0)).lr_decay_batches for c in LADDER}
    assert found == {c: float("inf") if c in "ABCD" else 500.0 for c in LADDER}


@pytest.mark.parametrize("size", SIZES.index)
def test_rate_of_a_size_counts_for_magnitude_preserving_layers(size):
    """From D on; A to C keep theirs, and an explicit rate wins."""
    for config in LADDER:
        expected = SIZES.lr_ref[size] if config in "DEFG" else CONFIGS.lr_ref[config]
        assert hyperparameters(config, params(size=size, channels=None)).lr_ref == expected
        explicit = params(size=size, channels=None, lr_ref=0.5)
        assert hyperparameters(config, explicit).lr_ref == 0.5
