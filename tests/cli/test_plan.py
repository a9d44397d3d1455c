"""`edm2 plan`."""

import json

import pytest


@pytest.mark.slow
def test_a_plan_as_json(empty_project, run):
    empty_project({})
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


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--gpu", "h1000"], "h100"),
        (["--gpu", "h100", "--tflops", "3"], "--tflops"),
        (["--images", "100"], "--classes"),
        (["--utilization", "0"], "utilization"),
        (["--utilization", "40%"], "0.4"),
        (["--utilization", "nan"], "0.4"),
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
