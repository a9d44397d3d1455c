"""Every kind of guide on a tiny project: training, reconstruction, evaluation and report."""

import pandas as pd
import pytest
import torch
from page_text import page_text
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY, entered, make_project, run_stage

from edm2.data.latents import LatentShards
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.ema import SnapshotStore, reconstruct
from edm2.params import load
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.networks import SweptNetwork
from edm2.runtime.manifest import read_manifest
from edm2.sampling import heun
from edm2.sampling.generate import seed_labels, seed_noise

LENGTHS, STRENGTHS = (0.05, 0.1, 0.2), (1.0, 1.5, 3.0)
CHANGES = {"conditional": False, "channels": 4, "duration_nimg": 512}


@pytest.fixture(scope="module")
def guided(finished, tmp_path_factory):
    """A project with a small unconditional guide that is trained for half as long."""
    folder = make_project(
        tmp_path_factory.mktemp("guided"),
        {
            **TINY,
            "guidance.guide": "trained",
            "guidance.changes": CHANGES,
            "guidance.strength": list(STRENGTHS),
        },
        finished,
    )
    with entered(folder):
        for stage in ("train_guide", "sweep_ema", "fid"):
            run_stage(stage, "G")
        run_stage("report")
    return folder


def networks_of(folder):
    """The networks of the sweep by EMA length."""
    return {n["ema_length"]: n for n in read_manifest(folder / "models/sweep/G-0")["networks"]}


def test_the_guide_is_trained_with_the_changed_params(guided):
    store = SnapshotStore(guided / "models/guide/G-0")
    assert store.end == 512
    weights = load_file(store.path(store.snapshots[-1]))
    assert not any("label" in name for name in weights)
    main = load_file(next((guided / "models/diffusion/G-0").glob("ema-*.safetensors")))
    assert sum(w.numel() for w in weights.values()) < sum(w.numel() for w in main.values()) / 2


def test_each_network_has_a_guide_of_the_same_ema_length(guided):
    store, networks = SnapshotStore(guided / "models/guide/G-0"), networks_of(guided)
    for spec, tensors in reconstruct(store, LENGTHS):
        written = load_file(guided / "models/sweep/G-0" / networks[spec.sigma_rel]["guide"])
        for name, tensor in tensors.items():
            torch.testing.assert_close(written[name].float(), tensor, rtol=1e-3, atol=1e-6)


def test_the_table_has_a_row_per_length_and_strength(guided, finished):
    """Rows without guidance equal those of a project without a guide."""
    table = pd.read_csv(guided / "reports/fid/G-0.csv")
    sweep = table[table["seeds"] == "sweep"]
    for _, rows in sweep.groupby("metric"):
        pairs = sorted(rows[["ema_length", "guidance"]].itertuples(index=False, name=None))
        assert pairs == sorted((s, w) for s in LENGTHS for w in STRENGTHS)
        assert rows["value"].nunique() == len(rows)
    unguided = table[table["guidance"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(unguided, pd.read_csv(finished / "reports/fid/G-0.csv"))


def test_the_best_networks_with_and_without_guidance_are_evaluated_again(guided):
    table = pd.read_csv(guided / "reports/fid/G-0.csv")
    main = table[table["samples"] == 300]
    fresh = main[main["seeds"] == "fresh"]
    assert len(fresh) == 2
    for row, rows in zip(
        fresh.itertuples(), (main[main["guidance"] == 1], main[main["guidance"] > 1]), strict=True
    ):
        sweep = rows[rows["seeds"] == "sweep"]
        lowest = sweep.loc[sweep["value"].idxmin()]
        assert (row.network, row.guidance) == (lowest["network"], lowest["guidance"])


def test_the_report_shows_curves_and_heat_map_of_guidance(guided, finished):
    page = page_text((guided / "reports/index.html").read_text())
    assert ">Guidance</h2>" in page
    assert ">Guidance</h2>" not in page_text((finished / "reports/index.html").read_text())
    assert pd.read_csv(guided / "reports/sweeps/guidance.csv")["guidance"].tolist() == [*STRENGTHS]
    for name in ("guidance", "guidance_map"):
        with Image.open(guided / f"reports/sweeps/{name}.png") as picture:
            assert min(picture.size) > 100
    curve = pd.read_csv(guided / "reports/ema_curves.csv")
    assert curve["guidance"].tolist() == [1.0] * 3


def test_guided_images_follow_the_formula(guided, monkeypatch):
    """The expected images are computed here from both denoisers with the sampler."""
    monkeypatch.chdir(guided)
    params = load("params.yaml").of("G")
    network, folder = networks_of(guided)[0.1], guided / "models/sweep/G-0"
    evaluator = Evaluator(params, "G", torch.device("cpu"))

    class NoProgress:
        def advance(self, count): ...

    swept = SweptNetwork(**network)
    images = evaluator.generate(folder, swept, 1.5, 0, NoProgress()).images
    latents = LatentShards(guided / "data/latents", "train")
    main, guide = (
        set_network(denoiser_for("G", p, latents.shape, 10), load_file(folder / network[key]))
        for p, key in ((params, "file"), (params.guide_of("G"), "guide"))
    )
    labels = seed_labels(range(4), 10, "balanced")
    x = heun(
        lambda x, s: 1.5 * main(x, s, labels) - 0.5 * guide(x, s),
        seed_noise(range(4), latents.shape, torch.device("cpu")),
        3,
    )
    expected = evaluator.sampler.codec.decode(latents.normalization.denormalize(x))
    assert (images[:4].int() - expected.int()).abs().max() <= 1


def test_a_snapshot_of_the_same_training_guides(project):
    """Autoguidance by an earlier and longer average, which the same pass reconstructs."""
    folder = project(
        guidance__guide="snapshot",
        guidance__nimg=512,
        guidance__ema_length=0.2,
        guidance__strength=[2.0],
        evaluation__confirm=False,
    )
    for stage in ("train_guide", "sweep_ema", "fid"):
        run_stage(stage, "G")
    assert {n["guide"] for n in networks_of(folder).values()} == {
        "000000000512-ema_length-0.2.safetensors"
    }
    ((_, tensors),) = reconstruct(SnapshotStore(folder / "models/ema/G-0"), [0.2], 512)
    written = load_file(folder / "models/sweep/G-0/000000000512-ema_length-0.2.safetensors")
    for name, tensor in tensors.items():
        torch.testing.assert_close(written[name].float(), tensor, rtol=1e-3, atol=1e-6)
    assert set(pd.read_csv(folder / "reports/fid/G-0.csv")["guidance"]) == {2.0}
    run_stage("report")
    assert pd.read_csv(folder / "reports/ablation.csv")["ours: guidance"].tolist() == [2.0]


def test_a_network_without_labels_guides_itself(project):
    folder = project(
        guidance__guide="unlabeled",
        guidance__strength=[1.0, 2.0],
        guidance__interval=[0.1, 10.0],
        diffusion__label_dropout=0.2,
    )
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema", "fid"):
        run_stage(stage, "G")
    table = pd.read_csv(folder / "reports/fid/G-0.csv")
    values = table[(table["samples"] == 300) & (table["seeds"] == "sweep")].groupby("guidance")
    assert sorted(values.groups) == [1.0, 2.0]
    assert set(values.get_group(1.0)["value"]).isdisjoint(values.get_group(2.0)["value"])


def test_traditional_averages_are_guided_by_traditional_averages(project):
    folder = project(
        guidance__guide="trained",
        guidance__changes={"channels": 4},
        configs=["A"],
        guidance__strength=[2.0],
    )
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema"):
        run_stage(stage, "A")
    (network,) = read_manifest(folder / "models/sweep/A-0")["networks"]
    assert (folder / "models/sweep/A-0" / network["guide"]).exists()
    assert network["guide"].startswith("guide-")
