"""The command line of a stage, by hand and from DVC."""

import sys

import pytest
from tiny import ROOT

from edm2.pipeline import runner


@pytest.mark.parametrize(
    ("stage", "args", "name", "config"),
    [
        ("fid@G", (), "fid", "G"),
        ("../dvc.yaml:fid@G; touch X", (), "fid", "G; touch X"),
        ("fid@G", ("F",), "fid", "F"),
        ("", ("F", "--params", "other.yaml"), "fid", "F"),
        ("report", (), "report", ""),
    ],
)
def test_the_config_is_named_by_hand_or_by_dvc(monkeypatch, stage, args, name, config):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_STAGE", stage)
    monkeypatch.setattr(sys, "argv", [f"stages/{name}.py", *args])
    assert runner._parse(name, "").config == config


@pytest.mark.parametrize("stage", ["", "fid", "train_guide@G"])
def test_a_missing_config_is_asked_for(monkeypatch, capsys, stage):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_STAGE", stage)
    monkeypatch.setattr(sys, "argv", ["stages/fid.py"])
    with pytest.raises(SystemExit) as end:
        runner._parse("fid", "")
    assert end.value.code == 2
    assert "expected a training config" in capsys.readouterr().err
