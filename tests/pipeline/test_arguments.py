"""The command line of a stage, by hand and from DVC."""

import sys

import pytest
from tiny import ROOT

from edm2.pipeline import runner


@pytest.mark.parametrize(
    ("stage", "args", "name", "training"),
    [
        ("fid@G-0", (), "fid", "G-0"),
        ("../dvc.yaml:fid@G; touch X-0", (), "fid", "G; touch X-0"),
        ("fid@G-0", ("F-1",), "fid", "F-1"),
        ("", ("F", "--params", "other.yaml"), "fid", "F"),
        ("report", (), "report", ""),
    ],
)
def test_the_training_is_named_by_hand_or_by_dvc(monkeypatch, stage, args, name, training):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_STAGE", stage)
    monkeypatch.setattr(sys, "argv", [f"stages/{name}.py", *args])
    assert runner._parse(name, "").training == training


@pytest.mark.parametrize("stage", ["", "fid", "train_guide@G-0"])
def test_a_missing_training_is_asked_for(monkeypatch, capsys, stage):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_STAGE", stage)
    monkeypatch.setattr(sys, "argv", ["stages/fid.py"])
    with pytest.raises(SystemExit) as end:
        runner._parse("fid", "")
    assert end.value.code == 2
    assert "expected a training" in capsys.readouterr().err
