"""The params that a config uses, from the params.yaml of an experiment."""

import math

import pytest
from ruamel.yaml import YAML
from tiny import ROOT

from edm2.params import UserError
from edm2.pipeline import experiments
from edm2.pipeline.experiments import read_params, used_params


@pytest.fixture
def tree():
    """params.yaml of two configs, one with an entry in `per_config`."""
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    tree["configs"] = ["A", "G"]
    tree["diffusion"] |= {"lr_ref": 0.01, "lr_decay_batches": 100, "p_mean": None}
    tree["diffusion"]["per_config"] = {
        "A": {"lr_ref": 0.002, "channel_mult": [1, 4], "overrides": {"bias": False}}
    }
    return tree


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "seed: 0",
        "configs: G",
        "configs: [1]",
        "configs: [G]",
        "configs: [G]\nseeds: 0",
    ],
)
def test_params_without_configs_are_refused(monkeypatch, text):
    monkeypatch.setattr(experiments, "read", lambda revision, path: text)
    with pytest.raises(UserError, match=r"^HEAD: params\.yaml"):
        read_params("HEAD")


def test_per_config_overrides_common_values(tree):
    used = used_params(tree)
    assert [used[c]["diffusion.lr_ref"] for c in "AG"] == [0.002, 0.01]
    assert [used[c]["diffusion.channel_mult"] for c in "AG"] == [[1, 4], [1, 2]]
    assert [used[c]["diffusion.overrides.bias"] for c in "AG"] == [False, False]
    assert not any("per_config" in key for params in used.values() for key in params)


def test_null_is_the_papers_value(tree):
    """EDM2 Table 1; the learning rate of config A is constant for any params."""
    used = used_params(tree)
    assert [used[c]["diffusion.p_mean"] for c in "AG"] == [-1.2, -0.4]
    assert [used[c]["diffusion.overrides.average"] for c in "AG"] == ["traditional", "power"]
    assert [used[c]["diffusion.lr_decay_batches"] for c in "AG"] == [math.inf, 100]
    assert used["G"]["diffusion.attention_resolutions"] == [4]


def test_other_params_are_as_written(tree):
    used = used_params(tree)
    assert [used[c]["sampling.steps"] for c in "AG"] == [tree["sampling"]["steps"]] * 2
    assert [used[c]["diffusion.size"] for c in "AG"] == [None, None]


def test_params_of_an_old_revision_keep_their_nulls(tree):
    tree["diffusion"]["num_res_blocks"] = tree["diffusion"].pop("res_blocks")
    used = used_params(tree)
    assert [used[c]["diffusion.lr_ref"] for c in "AG"] == [0.002, 0.01]
    assert [used[c]["diffusion.p_mean"] for c in "AG"] == [None, None]
    assert used["A"]["diffusion.num_res_blocks"] == 1


def test_an_unknown_config_keeps_its_nulls(tree):
    """A plug-in of another revision may define it."""
    tree["configs"] = ["G", "H"]
    tree["diffusion"]["per_config"] = {"H": {"lr_ref": 0.003}}
    used = used_params(tree)
    assert [used[c]["diffusion.lr_ref"] for c in "GH"] == [0.01, 0.003]
    assert used["H"]["diffusion.p_mean"] is None
