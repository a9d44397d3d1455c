"""Warnings of changed values that the entry of a config overrides."""

import subprocess

import pytest
from tiny import TINY, write_params

from edm2.params import load
from edm2.pipeline.hidden_values import hidden_changes

PER_CONFIG = {"A": {"lr_ref": 0.002, "overrides": {"bias": True}}}


@pytest.fixture
def committed(tmp_path):
    """A repository with params in which config A has an entry in `per_config`."""
    file = write_params(tmp_path / "params.yaml", {**TINY, "diffusion.per_config": PER_CONFIG})
    for arguments in (["init"], ["add", "."], ["commit", "-m", "params"]):
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)
    return file


def change(file, changes):
    write_params(file, {**TINY, "diffusion.per_config": PER_CONFIG, **changes})
    return load(file)


def test_a_hidden_change_names_both_values(committed):
    params = change(committed, {"diffusion.lr_ref": 0.005})
    (warning,) = hidden_changes(params, "A", committed)
    for text in ("diffusion.lr_ref = 0.005", "config A", "per_config.A.lr_ref", "0.002"):
        assert text in warning
    assert list(hidden_changes(params, "G", committed)) == []


def test_options_are_compared_as_well(committed):
    params = change(committed, {"diffusion.overrides.bias": False})
    (warning,) = hidden_changes(params, "A", committed)
    assert "per_config.A.overrides.bias" in warning


def test_values_as_committed_give_no_warning(committed):
    params = change(committed, {"diffusion.lr_rampup_nimg": 512})
    assert list(hidden_changes(params, "A", committed)) == []


def test_without_git_there_is_no_warning(tmp_path):
    file = write_params(tmp_path / "params.yaml", {**TINY, "diffusion.per_config": PER_CONFIG})
    assert list(hidden_changes(load(file), "A", file)) == []
