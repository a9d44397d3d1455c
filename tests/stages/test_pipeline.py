"""All stages, on a tiny project."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from page_text import page_text
from safetensors.torch import load_file
from tiny import REPLICATE, ROOT, STAGES, run_stage

from edm2.ema import SnapshotStore, reconstruct
from edm2.params import UserError
from edm2.pipeline.declaration import read_declaration
from edm2.runtime.manifest import read_manifest


def test_no_out_is_an_empty_folder_or_file(finished):
    """DVC would warn about it."""
    for name in STAGES:
        for out in read_declaration(name, REPLICATE, ROOT / "dvc.yaml").outs:
            path = finished / out
            assert any(path.iterdir()) if path.is_dir() else path.stat().st_size, out


def test_prepare_splits_all_digits_by_class(finished):
    manifest = read_manifest(finished / "data/images")
    assert manifest["images"]["train"] + manifest["images"]["held_out"] == 1797
    assert manifest["classes"] == [str(k) for k in range(10)]
    assert sum(manifest["images_per_class"]["held_out"]) == manifest["images"]["held_out"]
    assert all(count > 20 for count in manifest["images_per_class"]["held_out"])


def test_the_manifest_of_latents_has_shape_mean_and_std(finished):
    manifest = read_manifest(finished / "data/latents")
    assert manifest["shape"] == [4, 4, 4]
    assert len(manifest["mean"]) == len(manifest["std"]) == 4
    assert min(manifest["std"]) >= 0.1**0.5  # vae.variance is 0.1


def test_snapshots_are_taken_at_every_interval_and_at_the_end(finished):
    store = SnapshotStore(finished / "models/ema/G-0")
    assert sorted({s.nimg for s in store.snapshots}) == [256, 512, 768, 1024]
    assert {s.sigma_rel for s in store.snapshots} == {0.05, 0.1}


def test_networks_of_the_sweep_are_reconstructions(finished):
    networks = read_manifest(finished / "models/sweep/G-0")["networks"]
    assert [n["ema_length"] for n in networks] == [0.05, 0.1, 0.2]
    ((_, tensors),) = reconstruct(SnapshotStore(finished / "models/ema/G-0"), [0.2])
    written = load_file(finished / "models/sweep/G-0" / networks[2]["file"])
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(written[name], tensor, rtol=1e-3, atol=1e-6)  # 16 bits


def test_each_network_has_one_row_per_sample_count(finished):
    table = pd.read_csv(finished / "reports/fid/G-0.csv")
    held_out = read_manifest(finished / "data/images")["images"]["held_out"]
    assert set(table["metric"]) == {"fd_classifier_300", f"fd_classifier_{held_out}"}
    assert list(table[table["seeds"] == "sweep"].groupby("metric").size()) == [3, 3]
    assert np.isfinite(table["value"]).all()
    assert (table["value"] > 0).all()


def test_the_report_is_complete_and_needs_no_network(finished):
    page = page_text((finished / "reports/index.html").read_text())
    for heading in ("EMA length", "Ablation", "Samples", "Baselines", "VAE", "Training"):
        assert f">{heading}</h2>" in page
    assert page.count('src="data:image/') >= 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    assert {"vae/psnr", "features/accuracy_held_out", "G/best/ema_length"} <= metrics.keys()


def test_training_curves_have_a_row_per_log_interval(finished):
    rows = pd.read_csv(finished / "reports/training/G-0.csv")
    assert list(rows["nimg"]) == [256, 512, 768, 1024]
    assert rows["train/loss"].notna().all()
    assert (rows["train/nonfinite_gradients"] == 0).all()


def test_a_complete_stage_is_published_again_without_running(project, capfd):
    folder = project()
    run_stage("sweep_ema", "G")
    first = (folder / "models/sweep/G-0/manifest.json").stat().st_ino
    run_stage("sweep_ema", "G")
    assert "already complete" in capfd.readouterr().err
    assert (folder / "models/sweep/G-0/manifest.json").stat().st_ino == first


def test_a_complete_stage_with_damaged_results_runs_again(project, capfd):
    folder = project()
    run_stage("sweep_ema", "G")
    (network,) = folder.glob("models/sweep/G-0/000000001024-ema_length-0.1.safetensors")
    good = network.read_bytes()
    network.write_bytes(good[:-9])  # a hard link to the file in .state
    run_stage("sweep_ema", "G")
    assert "truncated" in capfd.readouterr().err
    assert network.read_bytes() == good


def test_other_params_give_other_results(project):
    folder = project(sweep__ema_lengths=[0.07])
    run_stage("sweep_ema", "G")
    run_stage("fid", "G")
    assert list(pd.read_csv(folder / "reports/fid/G-0.csv")["ema_length"].unique()) == [0.07]


def test_config_a_gives_the_one_network_of_its_traditional_average(project, capsys):
    """With a half-life of 32 images, its length at 1024 images is 32/ln 2/1024 (no ramp-up there)."""
    folder = project(ema__halflife_nimg=32)
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema", "fid"):
        run_stage(stage, "A")
    assert "sweep.ema_lengths" in capsys.readouterr().out
    store = SnapshotStore(folder / "models/ema/A-0")
    assert [(s.nimg, s.average) for s in store.snapshots] == [
        (nimg, "traditional") for nimg in (256, 512, 768, 1024)
    ]
    (network,) = read_manifest(folder / "models/sweep/A-0")["networks"]
    assert network["ema_length"] == pytest.approx(32 / np.log(2) / 1024, rel=1e-2)
    written = load_file(folder / "models/sweep/A-0" / network["file"])
    stored = load_file(store.path(store.snapshots[-1]))
    assert written.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in written.items())
    table = pd.read_csv(folder / "reports/fid/A-0.csv")
    assert table["average"].eq("traditional").all()
    assert table["ema_length"].eq(network["ema_length"]).all()
    assert [len(rows) for _, rows in table.groupby("seeds")] == [2, 2]  # a row per metric


@pytest.mark.parametrize(
    ("config", "average", "expected"),
    [
        ("A", "power", {("power", 0.05), ("power", 0.1)}),
        ("G", "traditional", {("traditional", 0.235702)}),
    ],
)
def test_the_option_average_selects_the_average(project, config, average, expected):
    """A half-life of ½ ln 2 of the training time so far gives a profile ∝ τ, of length 1/√18."""
    folder = project(diffusion__overrides__average=average, ema__halflife_rampup=math.log(2) / 2)
    run_stage("train_diffusion", config)
    store = SnapshotStore(folder / f"models/diffusion/{config}-0")
    assert {(s.average, s.sigma_rel) for s in store.snapshots} == expected


@pytest.mark.parametrize(
    ("file", "stage", "config"),
    [
        ("data/images/train-000001.tar", "train_features", ""),
        ("models/features/network.safetensors", "train_vae", ""),
        ("data/latents/train-000000.tar", "train_diffusion", "G"),
        ("models/diffusion/G-0/ema-0.1-000000000512.safetensors", "snapshot_emas", "G"),
        ("models/sweep/G-0/000000001024-ema_length-0.1.safetensors", "fid", "G"),
    ],
)
def test_a_truncated_input_is_named_and_not_removed(project, file, stage, config):
    path = project() / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file}: .*truncated"):
        run_stage(stage, config)
    assert path.exists()


def test_a_missing_input_is_named(project):
    folder = project()
    (folder / "models/ema/G-0").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="models/ema/G-0"):
        run_stage("sweep_ema", "G")
