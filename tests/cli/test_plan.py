"""`edm2 plan`."""

import json

import pytest
from network_rows import network_rows

from edm2.cli.plan import past_effects
from edm2.runtime.checksums import write_checksum


def write_networks(folder, seed, value):
    """A table of networks in the workspace."""
    path = folder / f"reports/fid/G-{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    network_rows([value], [0.1], training_seed=seed).to_csv(path, index=False)
    write_checksum(path)
    return path


def test_past_runs_that_cannot_be_read_are_a_note_unless_they_are_named(empty_project, run):
    folder = empty_project({})
    write_networks(folder, 0, 3.0).write_text("damaged")
    planned = {"configs": ["G"], "seeds": [0, 1]}
    assert "G-0.csv" in past_effects(planned, ()).unknown
    result = run("plan", "--from", "workspace")
    assert (result.status, result.out) == (2, "")
    assert "G-0.csv" in result.err
    write_networks(folder, 0, 3.0)
    write_networks(folder, 1, 4.0)
    assert past_effects(planned, ("workspace",)).effects["mean of G"].difference == 3.5


@pytest.mark.slow
def test_a_plan_as_json(empty_project, run):
    folder = empty_project({})
    for seed, value in ((0, 3.0), (1, 4.0)):  # of which the params name one
        write_networks(folder, seed, value)
    result = run("plan", "--json", "--tflops", "1", "--utilization", "0.5")
    assert result.status == 0, result.err
    plan = json.loads(result.out)
    stages = {row["stage"]: row for row in plan["stages"]}
    assert list(stages)[:2] == ["prepare", "train_features"]
    training = stages["train_diffusion@G-0"]
    assert training["gpu_hours"] == pytest.approx(training["flops"] / 0.5e12 / 3600)
    assert plan["total"]["flops"] == sum(row["flops"] for row in plan["stages"])
    assert plan["total"]["seconds"] is None
    assert plan["warnings"] == []
    assert plan["intervals"]["options"] == []
    assert "`seeds: [0, 1]`" in plan["intervals"]["unknown"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--gpu", "h1000"], "h100"),
        (["--gpu", "h100", "--tflops", "3"], "--tflops"),
        (["--images", "100"], "--classes"),
        (["--utilization", "0"], "utilization"),
        (["--utilization", "40%"], "0.35"),
        (["--utilization", "nan"], "0.35"),
        (["--tflops", "inf"], "989"),
        (["--memory", "nan"], "80"),
        (["--memory", "80GB"], "80"),
        (["--memory", "1"], "from 3"),
        (["--images", "10", "--classes", "1000"], "exchanged"),
    ],
)
def test_wrong_options_are_refused(empty_project, run, options, part):
    empty_project({})
    result = run("plan", *options)
    assert (result.status, result.out) == (2, "")
    assert part in result.err
