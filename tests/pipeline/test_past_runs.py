"""Past runs: seconds of those that are complete and have the same params, and tables of networks."""

import pytest
from network_rows import network_rows
from tiny import ROOT

from edm2.params import load
from edm2.pipeline import past_runs
from edm2.pipeline.declaration import read_declaration
from edm2.pipeline.past_runs import past_networks
from edm2.pipeline.past_seconds import past_seconds
from edm2.runtime.checksums import write_checksum
from edm2.runtime.state import State

PARAMS = load(ROOT / "params.yaml")


@pytest.fixture
def ran(root):
    """ran(stage, training, seconds, ...): notes of a run of a stage with the default params."""
    (root / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")

    def note(stage, training, seconds, params=PARAMS, complete=True):
        folder = root / f".state/{stage}{training and '-'}{training}/{seconds}"
        folder.mkdir(parents=True)
        params = params.of("G") if training else params
        notes = {"params": read_declaration(stage, training).values(params), "seconds": seconds}
        State(folder).note(**notes, **({"result_bytes": {}} if complete else {}))

    return note


def test_past_seconds_are_those_of_complete_runs_with_the_same_params(ran):
    assert past_seconds(PARAMS) == {}
    ran("prepare", "", 6.0)
    ran("fid", "G-0", 20.0)
    ran("fid", "G-12", 30.0)
    ran("fid", "G-1", 1000.0, complete=False)
    ran("fid", "G-2", None)
    ran("fid", "F-0", 1000.0)
    evaluation = PARAMS.evaluation.model_copy(update={"seed_blocks": 2})
    ran("fid", "G-0", 2000.0, PARAMS.model_copy(update={"evaluation": evaluation}))
    assert past_seconds(PARAMS) == {"prepare": 6.0, "fid@G": 25.0}


def test_past_seconds_without_notes_that_are_damaged(ran, root, capsys):
    ran("fid", "G-0", 20.0)
    ran("fid", "G-1", 30.0)
    notes = root / ".state/fid-G-1/30.0/notes.json"
    notes.write_text(notes.read_text().replace('"seconds": 30.0', '"seconds": 31.0'))
    assert past_seconds(PARAMS) == {"fid@G": 20.0}
    assert "note: not counted: .state/fid-G-1/30.0/notes.json: SHA-256" in capsys.readouterr().err


def table(config, seed):
    return network_rows((3.0, 2.0, 4.0), config=config, training_seed=seed)


@pytest.fixture
def revisions(monkeypatch):
    """revisions(name={"seeds": ..., ...}): results of experiments, which have config G."""
    trees = {}

    def read(revision, path):
        config, seed = path.removeprefix("reports/fid/").removesuffix(".csv").split("-")
        return table(config, int(seed)).to_csv(index=False)

    monkeypatch.setattr(
        past_runs, "read_params", lambda revision: {"configs": ["G"], **trees[revision]}
    )
    monkeypatch.setattr(past_runs, "read_result", read)
    return lambda **named: trees.update(named)


def seeds(networks):
    return {name: sorted(set(rows["training_seed"])) for name, rows in networks.items()}


def test_tables_of_the_workspace_are_taken_as_far_as_they_are_there(root):
    planned = {"configs": ["F", "G"], "seeds": [0, 1, 2]}
    assert past_networks(planned, ["workspace"]) == {}
    (root / "reports/fid").mkdir(parents=True)
    for config, seed in (("G", 0), ("F", 2), ("F", 0), ("G", 7), ("E", 0)):
        path = root / f"reports/fid/{config}-{seed}.csv"
        table(config, seed).to_csv(path, index=False)
        write_checksum(path)
    rows = past_networks(planned, ["workspace"])["workspace"]
    found = rows[["config", "training_seed"]].drop_duplicates().to_numpy().tolist()
    assert found == [["F", 0], ["F", 2], ["G", 0]]  # in the order of the params


def test_experiments_that_differ_only_in_their_seeds_are_one(root, revisions):
    revisions(
        a={"seeds": [0, 1], "lr": 1},
        b={"seeds": [2], "lr": 1},
        c={"seeds": [2], "lr": 3},
        d={"seeds": [1], "lr": 1},
    )
    found = past_networks({}, ["a", "b", "c", "d"])
    # d has a training that a has, too
    assert seeds(found) == {"a, b": [0, 1, 2], "c": [2], "d": [1]}
