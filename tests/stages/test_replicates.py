"""Several seeds: trainings that share all but the denoiser."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import PER_CONFIG, run_stage

pytestmark = pytest.mark.slow


def test_another_seed_is_another_training_with_the_same_images_and_detector(project):
    """Its results have its name; those of the first stay as they are."""
    folder = project(seeds=[0, 1])
    before = (folder / "reports/fid/G-0.csv").read_bytes()
    for name in PER_CONFIG:
        run_stage(name, "G", seed=1)
    first, second = (
        load_file(folder / f"models/diffusion/G-{seed}/network.safetensors") for seed in (0, 1)
    )
    same = [name for name, tensor in first.items() if torch.equal(tensor, second[name])]
    assert first.keys() == second.keys()
    assert not any(name.endswith("weight") for name in same)
    assert (folder / "reports/fid/G-0.csv").read_bytes() == before
    tables = [pd.read_csv(folder / f"reports/fid/G-{seed}.csv") for seed in (0, 1)]
    assert [set(table["training_seed"]) for table in tables] == [{0}, {1}]
    for column in ("ema_length", "first_seed", "samples", "metric", "reference"):
        assert tables[0][column].iloc[:2].equals(tables[1][column].iloc[:2])
    run_stage("report")
    assert set(pd.read_csv(folder / "reports/networks.csv")["training_seed"]) == {0, 1}
    assert json.loads((folder / "reports/metrics.json").read_text())
