"""Descriptions of denoisers: exact, and checked before anything is built."""

import json
import math
from dataclasses import fields

import pytest
import torch
from tiny_network import tiny_denoiser

from edm2.diffusion.description import build, describe
from edm2.params import UserError
from edm2.params.configs import CONFIGS, TrainingConfig


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_a_built_network_has_the_same_config_shape_and_tensors(config):
    denoiser = tiny_denoiser(config, num_classes=3 if config != "A" else 0)
    description = json.loads(json.dumps(describe(denoiser), allow_nan=False))
    built = build(description)
    assert (built.config, built.shape) == (denoiser.config, denoiser.shape)
    assert describe(built) == description
    assert {n: t.shape for n, t in built.state_dict().items()} == {
        n: t.shape for n, t in denoiser.state_dict().items()
    }


def test_a_network_without_its_uncertainty_head_is_built_without_it():
    denoiser = tiny_denoiser()
    denoiser.head = None
    built = build(describe(denoiser))
    assert built.head is None
    assert built.config.uncertainty  # the training had it


def test_a_constant_learning_rate_is_infinite_again():
    denoiser = tiny_denoiser("A")
    assert describe(denoiser)["config"]["lr_decay_batches"] is None
    assert build(describe(denoiser)).config.lr_decay_batches == math.inf


def changed(section, key, value):
    description = describe(tiny_denoiser())
    if value is ...:
        del description[section][key]
    else:
        description[section][key] = value
    return description


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingConfig)])
def test_every_option_must_be_there(name):
    with pytest.raises(UserError, match=rf"here: config: missing: {name}"):
        build(changed("config", name, ...), "here")


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("config", "color", 1, "config: unknown: color"),
        ("config", "group_norm", "batch", "group_norm: 'batch'"),
        ("config", "bias", 1, "bias: '1'"),
        ("config", "p_mean", math.nan, "p_mean: nan"),
        ("config", "lr_ref", math.inf, "lr_ref: inf"),
        ("config", "backbone", "os:system", "backbone: 'os:system': expected one of unet"),
        ("config", "objective", "mine", "objective: 'mine': expected one of edm"),
        ("config", "embedding_layers", 10**6, "embedding_layers: 1000000"),
        ("shape", "channels", 2**40, "channels: '1099511627776'"),
        ("shape", "res_blocks", 10**6, "res_blocks: '1000000'"),
        ("shape", "res_blocks", 600, "1 to 100"),
        ("shape", "resolution", 0, "resolution: '0'"),
        ("shape", "depth", 3, "depth"),
        ("shape", "channel_mult", [], "channel_mult"),
    ],
)
def test_wrong_values_are_named(section, key, value, words):
    with pytest.raises(UserError) as error:
        build(changed(section, key, value), "here")
    assert words in str(error.value)
    assert "here" in str(error.value)


@pytest.mark.parametrize("value", [None, [], "x"])
def test_what_is_no_mapping_is_named(value):
    with pytest.raises(UserError, match="expected a mapping"):
        build({"config": value, "shape": {}, "head": True})


def test_a_shape_that_no_tensor_can_have_is_refused_without_its_memory():
    with torch.device("meta"), pytest.raises(UserError, match="1 to 16,384"):
        build(changed("shape", "channels", 2**20))
