"""Trainings that are interrupted and resumed, or run on two ranks, give the same results."""

import shutil
import signal
import time

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import FULL_VAE, TINY, make_project, run_stage, start

from edm2.params import UserError
from edm2.runtime.manifest import read_manifest


def wait_for_checkpoint(folder, process):
    """Wait until a training has written its first checkpoint."""
    while process.poll() is None and not list(folder.glob(".state/*/*/checkpoint-*")):
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()


def interrupt(folder, signum, *stage):
    """Start a stage in a process that gets a signal after its first checkpoint; return its errors."""
    process = start(folder, *stage)
    wait_for_checkpoint(folder, process)
    process.send_signal(signum)
    error = process.communicate()[1]
    assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), error
    return error


def resume(folder, *stage):
    """Run a stage from the checkpoint that an interrupted one has left."""
    states = list(folder.glob(".state/*/*/results"))
    run_stage(*stage)
    assert list(folder.glob(".state/*/*/results")) == states, "the stage has started anew"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_an_interrupted_training_gives_the_same_bits(project, finished, signum):
    folder = project(runtime__checkpoint_seconds=0)
    outs = ("models/diffusion/G-0/network.safetensors", "reports/training/G-0.csv")
    for path in outs:
        (folder / path).unlink()
    error = interrupt(folder, signum, "stages.train_diffusion", "G")
    assert not (folder / outs[0]).exists()
    if signum != signal.SIGKILL:
        assert "run the same command again" in error
    resume(folder, "train_diffusion", "G")
    for path in outs:
        assert (folder / path).read_bytes() == (finished / path).read_bytes()


def test_an_interrupted_training_of_the_full_vae_gives_the_same_bits(project, full_vae):
    """With discriminator, views, crops and microbatches; that of the plain one is in the next test."""
    changes = {key.replace(".", "__"): value for key, value in FULL_VAE.items()}
    folder = project(runtime__checkpoint_seconds=0, **changes)
    progress = "reports/vae/progress/manifest.json"  # with the checksum of each picture
    snapshots = ("models/vae_snapshots/manifest.json", "reports/vae/ema.csv")
    outs = ("models/vae/network.safetensors", "reports/vae/curves.csv", progress, *snapshots)
    for path in outs:
        (folder / path).unlink()
    error = interrupt(folder, signal.SIGTERM, "stages.train_vae")
    assert "run the same command again" in error
    assert not (folder / outs[0]).exists()
    resume(folder, "train_vae")
    for path in outs:
        assert (folder / path).read_bytes() == (full_vae / path).read_bytes()


def test_a_corrupted_checkpoint_is_named_and_the_previous_one_is_used(project, finished):
    folder = project(runtime__checkpoint_seconds=0)
    interrupt(folder, signal.SIGTERM, "stages.train_vae")
    last = max(folder.glob(".state/*/*/checkpoint-*"))
    shutil.copytree(last, last.with_name("checkpoint-000000000001"))
    part = last / "part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(UserError, match=last.name):
        run_stage("train_vae")
    shutil.rmtree(last)
    resume(folder, "train_vae")
    for path in ("models/vae/network.safetensors", "reports/vae/curves.csv"):
        assert (folder / path).read_bytes() == (finished / path).read_bytes()


def test_torchrun_with_two_ranks_trains_the_denoiser_of_one(project, finished):
    """The ranks share its parameters (FSDP2); the main process writes whole ones."""
    folder = project(runtime__data_parallel="fsdp", runtime__activation_checkpointing=True)
    out = folder / "models/diffusion/G-0"
    shutil.rmtree(out)
    options = ("--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0")
    ranks = start(folder, "torch.distributed.run", *options, "-m", "stages.train_diffusion", "G")
    error = ranks.communicate()[1]
    assert ranks.returncode == 0, error
    for path in sorted(out.glob("*.safetensors")):
        two, one = load_file(path), load_file(finished / path.relative_to(folder))
        assert two.keys() == one.keys()
        for name, tensor in two.items():
            assert (tensor - one[name]).abs().max() < 1e-3 * one[name].abs().max() + 1e-6, name


def test_two_ranks_train_the_vae_of_one(two_ranks, finished):
    """Compares losses and held-out metrics: unlike weights, they do not depend on the sign of steps
    where the gradient is zero.
    """
    curves = "reports/vae/curves.csv"
    two, one = (pd.read_csv(p / curves) for p in (two_ranks, finished))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3, atol=1e-6)
    two, one = (pd.read_csv(p / "reports/vae/ema.csv") for p in (two_ranks, finished))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3, atol=1e-6)
    read_manifest(two_ranks / "models/vae")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"vae.seed": "zero"}, "vae.seed: 'zero'"),
        (
            {"diffusion.overrides.weight_norm": "none"},
            "diffusion.overrides.weight_norm: 'none'",
        ),
    ],
)
def test_wrong_params_are_refused_before_a_stage_runs(tmp_path, changes, error):
    """Also options of a training config that contradict each other, in any stage."""
    folder = make_project(tmp_path, {**TINY, **changes})
    refused = start(folder, "stages.prepare")
    assert refused.wait() == 2
    assert error in refused.stderr.read()
    assert not (folder / ".state").exists()


@pytest.mark.slow
def test_a_config_that_is_not_in_params_is_refused(tmp_path):
    refused = start(make_project(tmp_path, TINY), "stages.train_diffusion", "A")
    assert refused.wait() == 2
    error = refused.stderr.read()
    assert "training A" in error
    assert "(G)" in error
