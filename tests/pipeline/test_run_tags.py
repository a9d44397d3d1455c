"""Tags by which trainings of one config are grouped in MLflow."""

import pytest
from tiny import ROOT

from edm2.params import load
from edm2.params.replicates import Replicate
from edm2.pipeline.run_description import pipeline_run, stage_tags

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


@pytest.fixture
def pipeline(monkeypatch):
    """pipeline(stage, section={...}): the pipeline run that a stage with changed params belongs to."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_EXP_NAME", "tidal-axon")

    def of(stage, **sections):
        changes = {
            name: getattr(PARAMS, name).model_copy(update=values)
            if isinstance(values, dict)
            else values
            for name, values in sections.items()
        }
        return pipeline_run(stage, PARAMS.model_copy(update=changes))

    return of


def test_stages_of_one_experiment_are_in_one_pipeline_run(pipeline, monkeypatch):
    key = pipeline("prepare").key
    assert key == pipeline("report").key
    assert key == pipeline("fid", runtime={"workers": 3}).key  # no result changes
    assert key != pipeline("fid", diffusion={"channels": 64}).key
    assert key != pipeline("fid", seeds=(0, 1)).key
    assert key != pipeline("fid", tracking={"experiment": "mine"}).key  # it is not in that store
    monkeypatch.setenv("DVC_EXP_NAME", "other-fawn")
    assert key != pipeline("prepare").key
    assert [pipeline(stage).is_last for stage in ("fid", "report")] == [False, True]


def test_a_pipeline_run_is_named_by_experiment_and_changes(pipeline):
    name, tags, params = pipeline(
        "prepare", diffusion={"channels": 64}, configs=("F", "G")
    ).describe()
    assert name == "tidal-axon: F+G, channels=64"
    assert tags.items() >= {"stage": "pipeline", "config": "F+G", "dataset": "digits"}.items()
    assert params == {"configs": "['F', 'G']", "diffusion.channels": "64"}
    many = {"batch": 1, "lr_ref": 0.5, "dropout": 0.1, "channels": 64, "p_mean": 0.0, "p_std": 1.0}
    name, _, _ = pipeline("prepare", diffusion=many, sampling={"steps": 3}).describe()
    assert name.startswith("tidal-axon: G, ")
    assert name.endswith(", 3 more")
    assert name.count("=") == 4
    assert "steps" not in name  # what is of the training comes first


def test_params_of_one_name_are_named_in_full(pipeline):
    name, _, _ = pipeline("prepare", diffusion={"batch": 1}, vae={"batch": 2}).describe()
    assert name == "tidal-axon: G, diffusion.batch=1, vae.batch=2"
