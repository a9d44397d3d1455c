"""Trainings that are stopped at any moment end as if they had not been."""

import shutil
import signal
import time

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import EVERYTHING, start

from edm2.runtime.manifest import read_manifest


def wait_for_checkpoint(folder, process):
    """Until a training is in its middle."""
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
def test_a_stopped_training_continues_to_the_same_bits(project, finished, stage, out, log, signum):
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
        assert "run the same command again to continue" in error

    again = start(folder, *stage)
    assert again.wait() == 0, again.stderr.read()
    assert (folder / out).read_bytes() == (finished / out).read_bytes()
    assert (folder / log).read_text() == (finished / log).read_text()


def test_an_autoencoder_with_everything_on_continues_to_the_same_bits(project, whole):
    """Discriminator, views, crops and microbatches too."""
    changes = {key.replace(".", "__"): value for key, value in EVERYTHING.items()}
    folder = project(runtime__checkpoint_seconds=0, **changes)
    stopped = start(folder, "stages.train_vae")
    wait_for_checkpoint(folder, stopped)
    stopped.send_signal(signal.SIGTERM)
    error = stopped.communicate()[1]
    assert stopped.returncode == 128 + signal.SIGTERM, error
    again = start(folder, "stages.train_vae")
    assert again.wait() == 0, again.stderr.read()
    for path in ("models/vae/network.safetensors", "reports/vae/curves.csv"):
        assert (folder / path).read_bytes() == (whole / path).read_bytes()


def test_a_corrupt_checkpoint_is_named_and_the_one_before_it_serves(project, finished):
    folder = project(runtime__checkpoint_seconds=0)
    out = "models/vae/network.safetensors"
    stopped = start(folder, "stages.train_vae")
    wait_for_checkpoint(folder, stopped)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    last = max(folder.glob(".state/*/*/checkpoint-*.safetensors"))
    spare = last.with_name("checkpoint-000000000001.safetensors")
    shutil.copy(last, spare)
    last.write_bytes(last.read_bytes()[:-7])
    refused = start(folder, "stages.train_vae")
    assert refused.wait() == 2
    assert last.name in refused.stderr.read()
    last.unlink()
    again = start(folder, "stages.train_vae")
    assert again.wait() == 0, again.stderr.read()
    assert (folder / out).read_bytes() == (finished / out).read_bytes()


def two_ranks(folder, *stage):
    ranks = start(
        folder,
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=127.0.0.1:0",
        "-m",
        *stage,
    )
    assert ranks.wait() == 0, ranks.stderr.read()


def test_two_ranks_train_what_one_trains(project, finished):
    folder = project()
    out = folder / "models/diffusion/G"
    shutil.rmtree(out)
    two_ranks(folder, "stages.train_diffusion", "G")
    ours, alone = (
        load_file(p / "models/diffusion/G/network.safetensors") for p in (folder, finished)
    )
    for name, tensor in ours.items():
        assert (tensor - alone[name]).abs().max() < 1e-3 * alone[name].abs().max() + 1e-6, name


def test_two_ranks_train_the_autoencoder_that_one_trains(project, finished):
    """By its losses and held-out metrics, which the sign of a step without gradient leaves alone."""
    folder, curves = project(), "reports/vae/curves.csv"
    (folder / curves).unlink()
    shutil.rmtree(folder / "models/vae")
    two_ranks(folder, "stages.train_vae")
    ours, alone = (pd.read_csv(p / curves) for p in (folder, finished))
    pd.testing.assert_frame_equal(ours, alone, rtol=1e-3, atol=1e-6)
    read_manifest(folder / "models/vae")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("seed: 0", "seed: nought", "seed: 'nought'"),
        ("weight_norm: null", "weight_norm: none", "diffusion.overrides.weight_norm: 'none'"),
    ],
)
def test_a_params_mistake_costs_no_work(project, right, wrong, said):
    """Nor do switches of the ladder that contradict each other, whatever the stage."""
    folder = project()
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(right, wrong))
    refused = start(folder, "stages.prepare")
    assert refused.wait() == 2
    assert said in refused.stderr.read()
    assert not (folder / ".state").exists()


def test_a_config_that_params_do_not_name_is_refused(project):
    refused = start(project(), "stages.train_diffusion", "A")
    assert refused.wait() == 2
    assert "config A: not one of `configs` in params.yaml (G)" in refused.stderr.read()
