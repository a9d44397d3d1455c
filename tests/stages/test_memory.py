"""Stages that cannot fit into the memory of the machine."""

import pytest
from tiny import run_stage

from edm2.params import UserError
from edm2.runtime import memory

STAGES = {
    "train_features": "",
    "train_vae": "",
    "train_diffusion": "G",
    "train_guide": "G",
    "reference": "",
    "fid": "G",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_cannot_fit_is_refused_before_work(project, monkeypatch, stage):
    changes = {"guide": "trained", "changes": {"channels": 4}} if stage == "train_guide" else {}
    folder = project(**{f"guidance__{key}": value for key, value in changes.items()})
    monkeypatch.setattr(memory, "total_memory", lambda device: 100)
    with pytest.raises(UserError, match=f"{stage}.*needs at least") as error:
        run_stage(stage, STAGES[stage])
    assert "smaller" in str(error.value)
    assert not list((folder / ".state").rglob("checkpoint-*"))


def test_other_stages_need_little(project, monkeypatch):
    project()
    monkeypatch.setattr(memory, "total_memory", lambda device: 1000)
    run_stage("prepare")
