"""Projects of several tests of stages; tests must not change them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import FULL_VAE, TINY, entered, make_project, run_on_two_ranks, run_stage


@pytest.fixture(scope="session")
def full_vae(finished: Path, made_once: Callable[..., Path]) -> Path:
    """A project whose VAE has all options, with results up to the report."""

    def make(folder: Path) -> None:
        with entered(make_project(folder, {**TINY, **FULL_VAE}, finished)):
            run_stage("train_vae")
            run_stage("encode_latents")
            for stage in ("train_diffusion", "snapshot_emas", "sweep_ema", "fid"):
                run_stage(stage, "G")
            run_stage("report")

    return made_once("full_vae", make)


ALL_METRICS = {
    **TINY,
    "evaluation.metrics": ["fd", "kid", "precision", "recall"],
    "evaluation.neighbors": 4,
}


@pytest.fixture(scope="session")
def evaluated(finished: Path, made_once: Callable[..., Path]) -> Path:
    """A project with all metrics in its table and report."""

    def make(folder: Path) -> None:
        with entered(make_project(folder, ALL_METRICS, finished)):
            run_stage("fid", "G")
            run_stage("report")

    return made_once("evaluated", make)


@pytest.fixture(scope="session")
def two_ranks(finished: Path, made_once: Callable[..., Path]) -> Path:
    """`evaluated`, whose results of some stages were made again on two ranks, in this order."""
    stages = ("fid@G-0", "reference", "baselines", "encode_latents", "train_vae")

    def make(folder: Path) -> None:
        make_project(folder, ALL_METRICS, finished)
        run_on_two_ranks(folder, *stages)
        for stage in stages:  # they ran, and published what they made
            assert list(folder.glob(f".state/{stage.replace('@', '-')}/*/results/*")), stage

    return made_once("two_ranks", make)
