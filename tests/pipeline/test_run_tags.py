"""Tags by which trainings of one config are grouped in MLflow."""

import pytest
from tiny import ROOT

from edm2.params import load
from edm2.params.replicates import Replicate
from edm2.pipeline.run_description import stage_tags

PARAMS = load(ROOT / "params.yaml")


@pytest.fixture
def tags(monkeypatch):
    """tags(stage, training, section={...}): of a run with changed params."""
    monkeypatch.chdir(ROOT)

    def of(stage, config, seed, **sections):
        changes = {
            name: getattr(PARAMS, name).model_copy(update=values)
            if isinstance(values, dict)
            else values
            for name, values in sections.items()
        }
        params = PARAMS.model_copy(update=changes)
        return stage_tags(stage, Replicate(config, seed), params.of(config))

    return of


def test_trainings_that_differ_in_the_seed_are_one_group(tags):
    first, second = tags("fid", "G", 0), tags("fid", "G", 7, seeds=(0, 7), configs=("F", "G"))
    assert first == {**second, "seed": "0"}
    assert (second["stage"], second["config"], second["seed"]) == ("fid", "G", "7")


def test_other_params_configs_and_stages_are_other_groups(tags):
    base, group = tags("fid", "G", 0)["replicates"], tags("train_diffusion", "G", 0)["replicates"]
    assert len({base, group, tags("fid", "F", 0)["replicates"]}) == 3
    # of the stage itself, of one that it reads, of one behind that
    for changed in (
        {"evaluation": {"samples": 7}},
        {"sweep": {"nimg": (1,)}},
        {"vae": {"seed": 7}},
    ):
        assert tags("fid", "G", 0, **changed)["replicates"] != base
    # a training does not depend on what is evaluated later
    assert tags("train_diffusion", "G", 0, evaluation={"samples": 7})["replicates"] == group
    assert tags("train_diffusion", "G", 0, vae={"seed": 7})["replicates"] != group
