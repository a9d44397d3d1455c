"""Trainings that are interrupted and resumed, or run on two ranks, give the same results."""

import shutil
import signal
import time

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import FULL_VAE, run_on_two_ranks, start

from edm2.runtime.manifest import read_manifest


def wait_for_checkpoint(folder, process):
    """Wait until a training has written its first checkpoint."""
    while process.poll() is None and not list(folder.glob(".state/*/*/checkpoint-*.safetensors")):
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()


@pytest.mark.parametrize(
    ("stage", "out", "log"),
    [
        (
            ["stages.train_diffusion", "G"],
            "models/diffusion/G/network.safetensors",
            "reports/training/G.csv",
        ),
        (["stages.train_vae"], "models/vae/network.safetensors", "reports/vae/curves.csv"),
    ],
    ids=["denoiser", "vae"],
)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_gives_the_same_bits(project, finished, stage, out, log, signum):
    folder = project(runtime__checkpoint_seconds=0)
    for path in (out, log):
        (folder / path).unlink()
    stopped = start(folder, *stage)
    wait_for_checkpoint(folder, stopped)
    stopped.send_signal(signum)
    error = stopped.communicate()[1]
    status = {signal.SIGKILL: -9}.get(signum, 128 + signum)
    assert stopped.returncode == status, error
    assert not (folder / out).exists()
    if signum != signal.SIGKILL:
        assert "run the same command again" in error

    again = start(folder, *stage)
    assert again.wait() == 0, again.stderr.read()
    assert (folder / out).read_bytes() == (finished / out).read_bytes()
    assert (folder / log).read_text() == (finished / log).read_text()


def test_an_interrupted_training_of_the_full_vae_gives_the_same_bits(project, full_vae):
    """With discriminator, views, crops and microbatches."""
    changes = {key.replace(".", "__"): value for key, value in FULL_VAE.items()}
    folder = project(runtime__checkpoint_seconds=0, **changes)
    stopped = start(folder, "stages.train_vae")
    wait_for_checkpoint(folder, stopped)
    stopped.send_signal(signal.SIGTERM)
    error = stopped.communicate()[1]
    assert stopped.returncode == 128 + signal.SIGTERM, error
    again = start(folder, "stages.train_vae")
    assert again.wait() == 0, again.stderr.read()
    for path in ("models/vae/network.safetensors", "reports/vae/curves.csv"):
        assert (folder / path).read_bytes() == (full_vae / path).read_bytes()


def test_a_corrupted_checkpoint_is_named_and_the_previous_one_is_used(project, finished):
    folder = project(runtime__checkpoint_seconds=0)
    out = "models/vae/network.safetensors"
    stopped = start(folder, "stages.train_vae")
    wait_for_checkpoint(folder, stopped)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    last = max(folder.glob(".state/*/*/checkpoint-*.safetensors"))
    shutil.copy(last, last.with_name("checkpoint-000000000001.safetensors"))
    last.write_bytes(last.read_bytes()[:-7])
    refused = start(folder, "stages.train_vae")
    assert refused.wait() == 2
    assert last.name in refused.stderr.read()
    last.unlink()
    again = start(folder, "stages.train_vae")
    assert again.wait() == 0, again.stderr.read()
    assert (folder / out).read_bytes() == (finished / out).read_bytes()


def test_two_ranks_train_the_denoiser_of_one(project, finished):
    folder = project()
    out = folder / "models/diffusion/G"
    shutil.rmtree(out)
    run_on_two_ranks(folder, "stages.train_diffusion", "G")
    two, one = (load_file(p / "models/diffusion/G/network.safetensors") for p in (folder, finished))
    for name, tensor in two.items():
        assert (tensor - one[name]).abs().max() < 1e-3 * one[name].abs().max() + 1e-6, name


def test_two_ranks_train_the_vae_of_one(project, finished):
    """Compares losses and held-out metrics: unlike weights, they do not depend on the sign of steps
    where the gradient is zero.
    """
    folder, curves = project(), "reports/vae/curves.csv"
    (folder / curves).unlink()
    shutil.rmtree(folder / "models/vae")
    run_on_two_ranks(folder, "stages.train_vae")
    two, one = (pd.read_csv(p / curves) for p in (folder, finished))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3, atol=1e-6)
    read_manifest(folder / "models/vae")


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("seed: 0", "seed: zero", "seed: 'zero'"),
        ("weight_norm: null", "weight_norm: none", "diffusion.overrides.weight_norm: 'none'"),
    ],
)
def test_wrong_params_are_refused_before_a_stage_runs(project, right, wrong, error):
    """Also options of a training config that contradict each other, in any stage."""
    folder = project()
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(right, wrong))
    refused = start(folder, "stages.prepare")
    assert refused.wait() == 2
    assert error in refused.stderr.read()
    assert not (folder / ".state").exists()


def test_a_config_that_is_not_in_params_is_refused(project):
    refused = start(project(), "stages.train_diffusion", "A")
    assert refused.wait() == 2
    error = refused.stderr.read()
    assert "config A" in error
    assert "(G)" in error
