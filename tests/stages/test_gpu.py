"""Stages on a GPU, compared with the same stages on the CPU."""

import shutil
import signal
import time

import pandas as pd
import pytest
import torch
from tiny import PER_CONFIG, STAGES, run_stage, start

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_all_stages_give_the_tables_of_a_cpu(project, finished):
    folder = project(runtime__device=DEVICE)
    for stage in STAGES:
        run_stage(stage, "G" if stage in PER_CONFIG else "")
    for table in ("reports/features/curves.csv", "reports/vae/curves.csv"):
        gpu, cpu = (pd.read_csv(root / table) for root in (folder, finished))
        pd.testing.assert_frame_equal(gpu, cpu, rtol=0.05)
    gpu, cpu = (pd.read_csv(root / "reports/fid/G-0.csv") for root in (folder, finished))
    assert gpu["value"].tolist() == pytest.approx(cpu["value"].tolist(), rel=0.1)


@pytest.mark.parametrize(
    ("stage", "table"),
    [("train_vae", "reports/vae/curves.csv"), ("train_diffusion", "reports/training/G-0.csv")],
)
def test_an_interrupted_training_continues_to_the_same_table(project, stage, table):
    """Up to rounding: of some gradients the order of the sums is not fixed on a GPU."""
    folder = project(runtime__device=DEVICE, runtime__checkpoint_seconds=0)
    config = ("G",) if stage in PER_CONFIG else ()
    run_stage(stage, *config)
    whole = pd.read_csv(folder / table)
    shutil.rmtree(folder / ".state")
    (folder / table).unlink()
    process = start(folder, f"stages.{stage}", *config)
    while process.poll() is None and not list(folder.glob(".state/*/*/checkpoint-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGINT, error
    run_stage(stage, *config)
    pd.testing.assert_frame_equal(pd.read_csv(folder / table), whole, rtol=1e-3)
