"""Facts of a run in the header of the report."""

import subprocess

import pytest
import torch
from tiny import ROOT, write_params

from edm2.params import load
from edm2.params.presets import preset_text
from edm2.pipeline import run_facts as module
from edm2.pipeline.changed_params import nearest_preset
from edm2.pipeline.run_description import pipeline_run
from edm2.pipeline.run_facts import git_commit, run_facts, stage_seconds

DATA = {
    "source": "digits",
    "resolution": 16,
    "classes": ["zero", "one"],
    "images": {"train": 1528, "held_out": 269},
}
CPU = torch.device("cpu")


@pytest.fixture
def params(root):
    """params(changes): those of the default project with changes."""
    (root / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    return lambda changes: load(write_params(root / "params.yaml", changes))


def git(*args):
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    subprocess.run(["git", *identity, *args], check=True, capture_output=True)


def test_the_header_has_data_trainings_and_what_is_not_known(params):
    facts = run_facts(params({"configs": ["A", "G"], "seeds": [0, 3]}), DATA, CPU)
    assert facts.summary["Data set"] == (
        "digits: 1,528 training images and 269 held-out ones, 2 classes, 16×16 pixels"
    )
    assert facts.summary["Trained"] == "configs A, G; training seeds 0, 3"
    assert facts.summary["Code"] == "not in a git repository with a commit"
    assert facts.summary["Duration"] == "not known"
    assert torch.__version__ in facts.summary["Machine"]


def test_the_commit_names_changed_files_but_not_the_lock_that_dvc_writes(root):
    git("init")
    for name in ("params.yaml", "dvc.lock", "other"):
        (root / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    (root / "dvc.lock").write_text("2")
    assert len(git_commit().split()) == 2
    (root / "params.yaml").write_text("2")
    assert git_commit().endswith("with changes that are not committed in params.yaml")


def test_without_git_the_commit_is_not_known(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    assert git_commit() == "not in a git repository with a commit"


def test_params_are_compared_with_the_nearest_preset(params):
    """Those that change no result do not count."""
    assert nearest_preset(params({"runtime.threads": 1})) == ("digits", {})
    name, changes = nearest_preset(params({"seeds": [0, 1], "vae.channels": 8}))
    assert name == "digits"
    assert changes["seeds"] == ([0], [0, 1])
    assert changes["vae.channels"][1] == 8
    assert len(changes) == 2


def test_an_experiment_is_named_by_what_differs_from_the_commit(params, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "tidal-axon")
    own = {"diffusion.channels": 16, "vae.channels": 8, "sampling.steps": 3}
    values = params(own)
    name, _, _ = pipeline_run("prepare", values).describe()
    assert name == "tidal-axon: G, diffusion.channels=16, vae.channels=8, steps=3"
    git("init")
    git("add", "params.yaml")
    git("commit", "-m", "first")
    assert pipeline_run("prepare", values).describe()[0] == name  # it changes nothing
    values = params({**own, "diffusion.lr_ref": 0.5, "runtime.threads": 1})
    name, _, changes = pipeline_run("prepare", values).describe()
    assert name == "tidal-axon: G, lr_ref=0.5"
    assert changes.keys() == {*own, "diffusion.lr_ref"}


def test_a_project_of_another_preset_is_compared_with_that(params, root):
    params({})
    (root / "photos.yaml").write_text(preset_text("ladder-photos").replace("seed: 0", "seed: 1", 1))
    name, changes = nearest_preset(load(root / "photos.yaml"))
    assert (name, changes) == ("ladder-photos", {"dataset.seed": (0, 1)})


def test_seconds_are_those_of_all_trainings_of_a_stage(params, monkeypatch):
    monkeypatch.setattr(module, "past_seconds", lambda params: {"prepare": 60.0, "fid@G": 10.0})
    tree = params({"seeds": [0, 1, 2]})
    seconds = stage_seconds(tree).set_index("stage")["seconds"].dropna()
    assert seconds.to_dict() == {"prepare": 60.0, "fid@G": 30.0}
    duration = run_facts(tree, DATA, CPU).summary["Duration"]
    assert duration.startswith("1 min 30 s, without ")
