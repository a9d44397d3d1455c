"""The averages of the VAE's weights: which network becomes the codec, and how all are compared."""

import json

import pandas as pd
import pytest
import torch
from tiny_autoencoder import CPU, TINY, make_network, vae_params

from edm2.ema.snapshot import Snapshot
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import load_tensors
from edm2.params import UserError
from edm2.pipeline.vae_average import save_average
from edm2.pipeline.vae_averages import VaeAverages
from edm2.runtime.manifest import read_manifest
from edm2.vae.codec import load_codec

LENGTHS = {"ema.ema_lengths": (0.05, 0.1), "ema.snapshot_nimg": 80}
STEPS = TINY["duration_nimg"] // TINY["batch"]


@pytest.fixture
def averages(tmp_path):
    """averages(**changes): those of a training whose network moves by the same amount in each step."""

    def make(**changes):
        params = vae_params(TINY, LENGTHS, changes)
        made = VaeAverages(make_network(params), params, tmp_path / "snapshots")
        for step in range(1, STEPS + 1):
            with torch.no_grad():
                for parameter in made.network.parameters():
                    parameter.add_(0.01)
            nimg = step * params.batch
            if made.tracked:
                made.tracker.update(nimg, params.batch)
            for every in made.every:
                if nimg % every.nimg == 0:
                    every.action(nimg)
        return made

    return make


def some_weight(network):
    return next(network.parameters()).detach().double().mean().item()


def test_the_codec_has_the_final_weights_by_default(averages):
    made = averages()
    network, metadata = made.finish()
    assert network is made.network
    assert metadata == {}
    manifest = read_manifest(made.folder)
    assert [snapshot["nimg"] for snapshot in manifest["snapshots"]] == [80, 80, 160, 160]
    assert manifest["vae"]["channels"] == 8


def test_an_average_can_become_the_codec(averages):
    """Of weights that grow by 0.01 in each step it is behind by 0.01 times the mean age in steps, about
    T/(γ + 2); for EMA length 0.1, γ is 6.94.
    """
    made = averages(**{"ema.length": 0.1})
    final = some_weight(made.network)
    network, metadata = made.finish()
    assert metadata["average"]["sigma_rel"] == 0.1
    age = STEPS / (6.94 + 2) - 0.5  # an update counts at the end of its step
    assert final - some_weight(network) == pytest.approx(0.01 * age, abs=0.002)
    stored = load_tensors(made.folder / Snapshot.power(160, 0.1).file)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].float(), atol=1e-5, rtol=1e-3)


def test_each_length_is_evaluated_once_and_the_codec_never_again(averages):
    made = averages(**{"ema.length": 0.1, "ema.evaluate_lengths": (0.05, 0.1)})
    final = some_weight(made.network)
    made.finish()
    seen = []

    def evaluate(codec):
        seen.append(some_weight(codec.network))
        return {"psnr": float(len(seen)), "latent/std": 1.0}

    rows = made.compare(evaluate, {"psnr": 7.0, "latent/std": 1.0}, CPU)
    assert [(row["ema_length"], row["psnr"]) for row in rows] == [
        (0.0, 1.0),
        (0.05, 2.0),
        (0.1, 7.0),
    ]
    assert seen[0] == pytest.approx(final)
    assert seen[1] < final
    assert {row["nimg"] for row in rows} == {160}
    assert all("latent/std" not in row for row in rows)


def test_without_lengths_nothing_is_kept(averages):
    made = averages(**{"ema.ema_lengths": ()})
    task = object()
    assert made.track(task) is task
    assert made.every == []
    assert made.finish() == (made.network, {})
    assert made.compare(None, {}, CPU) == []
    assert read_manifest(made.folder)["files"] == {}
    assert [path.name for path in made.folder.iterdir()] == ["manifest.json"]


def test_snapshots_after_the_time_of_a_checkpoint_are_removed(averages):
    made = averages()
    made.rollback(159)
    assert {snapshot.nimg for snapshot in SnapshotStore(made.folder).snapshots} == {80}


def test_the_table_is_of_the_final_weights_and_of_the_averages(finished):
    table = pd.read_csv(finished / "reports/vae/ema.csv")
    assert list(table["ema_length"]) == [0.0, 0.1]
    assert list(table["snapshots"]) == [0, 8]
    metrics = json.loads((finished / "reports/vae/metrics.json").read_text())
    for name in ("psnr", "ssim", "perceptual_classifier", "evaluated_images"):
        assert table[name][0] == pytest.approx(metrics[name], rel=1e-12)
    assert (table["psnr"].diff()[1:] != 0).all()
    assert (finished / "reports/vae_ema.png").stat().st_size


def test_a_codec_is_made_of_snapshots(finished, tmp_path):
    """Of a tracked length, at the time of a snapshot, it has that snapshot's weights."""
    snapshots = finished / "models/vae_snapshots"
    average = save_average(snapshots, 0.05, 256, tmp_path / "vae")
    assert (average.nimg, average.snapshots) == (256, 4)
    codec = load_codec(tmp_path / "vae", CPU)
    assert codec.params == load_codec(finished / "models/vae", CPU).params
    stored = load_tensors(snapshots / Snapshot.power(256, 0.05).file)
    for name, tensor in codec.network.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].float(), atol=1e-6, rtol=1e-4)
    with pytest.raises(UserError, match="exists"):
        save_average(snapshots, 0.05, None, tmp_path / "vae")


def test_snapshots_of_a_denoiser_are_no_vae(finished, tmp_path):
    with pytest.raises(UserError, match="models/diffusion/G-0: .*no VAE"):
        save_average(finished / "models/diffusion/G-0", 0.05, None, tmp_path / "vae")
