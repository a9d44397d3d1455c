"""A fixture of several tests of stages: a project with all options of the VAE."""

from pathlib import Path

import pytest
from tiny import FULL_VAE, TINY, entered, make_project, run_stage


@pytest.fixture(scope="session")
def full_vae(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose VAE has all options, with results up to the report; tests must not change it."""
    folder = make_project(tmp_path_factory.mktemp("full_vae"), {**TINY, **FULL_VAE}, finished)
    with entered(folder):
        run_stage("train_vae")
        run_stage("encode_latents")
        for stage in ("train_diffusion", "snapshot_emas", "sweep_ema", "fid"):
            run_stage(stage, "G")
        run_stage("report")
    return folder
