"""Past runs: seconds of those that are complete and have the same params."""

import pytest
from tiny import ROOT

from edm2.params import load
from edm2.pipeline.declaration import read_declaration
from edm2.pipeline.past_runs import past_seconds
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
