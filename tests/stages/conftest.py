"""What tests of stages share beside the finished project: an autoencoder with everything on."""

import shutil
from pathlib import Path

import pytest
from tiny import EVERYTHING, TINY, make_project, run_stage


@pytest.fixture(scope="session")
def whole(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose autoencoder has everything on, up to its report; tests only read it."""
    folder = make_project(tmp_path_factory.mktemp("whole"), {**TINY, **EVERYTHING})
    for results in ("data", "models", "reports"):
        shutil.copytree(finished / results, folder / results)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        run_stage("train_vae")
        run_stage("encode_latents")
        for stage in ("train_diffusion", "snapshot_emas", "sweep_ema", "fid"):
            run_stage(stage, "G")
        run_stage("report")
    return folder
