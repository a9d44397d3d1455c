"""All metrics on a tiny project: the rows of the table and their values."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from page_text import page_text
from safetensors.torch import load_file
from tiny import REPLICATE, run_stage

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.features.classifier import load_classifier
from edm2.metrics import frechet_distance, kernel_distance, precision, recall
from edm2.params import load
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.runner import StageContext
from edm2.pipeline.sweep_evaluation import log_curves
from edm2.runtime.manifest import read_manifest
from edm2.runtime.randomness import generator
from edm2.sampling import heun
from edm2.sampling.generate import seed_labels, seed_noise
from edm2.vae.codec import load_codec

METRICS = ["fd", "kid", "precision", "recall"]
CPU = torch.device("cpu")


def table(folder):
    return pd.read_csv(folder / "reports/fid/G-0.csv")


def held_out(folder):
    return read_manifest(folder / "data/images")["images"]["held_out"]


def test_each_network_has_a_row_per_metric_and_sample_count(evaluated):
    rows, count = table(evaluated), held_out(evaluated)
    names = [f"{m}_classifier_{n}" for n in (300, count) for m in METRICS]
    for seeds, networks in (("sweep", 3), ("fresh", 1)):
        assert rows[rows["seeds"] == seeds]["metric"].tolist() == names * networks
    kid = rows["metric"].str.startswith("kid")
    assert (rows["standard_error"].notna() == kid).all()
    assert (rows[kid]["standard_error"] > 0).all()
    frechet = rows["metric"].str.startswith("fd")
    train = read_manifest(evaluated / "data/images")["images"]["train"]
    assert set(rows[frechet]["reference"]) == {train}
    assert (rows[~frechet]["reference"] == rows[~frechet]["samples"]).all()
    assert not rows["singular"].any()


def test_other_metrics_do_not_change_the_frechet_distance(evaluated, finished):
    rows = table(evaluated)
    frechet = rows[rows["metric"].str.startswith("fd")].reset_index(drop=True)
    pd.testing.assert_frame_equal(frechet, table(finished), check_dtype=False)


def features_of(folder, network, seeds):
    """Features of generated images, and of all training images."""
    params = load(folder / "params.yaml").of("G")
    latents = LatentShards(folder / "data/latents", "train")
    denoiser = set_network(
        denoiser_for("G", params, latents.shape, 10),
        load_file(folder / f"models/sweep/G-0/{network}.safetensors"),
    )
    labels, steps = seed_labels(seeds, 10, "balanced"), params.sampling.steps
    x = heun(lambda x, s: denoiser(x, s, labels), seed_noise(seeds, latents.shape, CPU), steps)
    images = load_codec(folder / "models/vae", CPU).decode(latents.normalization.denormalize(x))
    detector = load_classifier(folder / "models/features", CPU)
    train = ImageShards(folder / "data/images", "train")
    real = train.batch(range(len(train)))[0]
    return tuple(detector.features(z).numpy() for z in (images, real))


def test_values_are_those_of_generated_images(evaluated):
    """Images are generated again; training images are taken in the fixed random order."""
    rows = table(evaluated)
    rows = rows[(rows["ema_length"] == 0.1) & (rows["seeds"] == "sweep")].set_index("metric")
    generated, real = features_of(evaluated, rows["network"].iloc[0], range(300))
    order = np.argsort(generator(0, "evaluation/reference").permutation(len(real)))
    for count in (300, held_out(evaluated)):
        a, b = generated[:count], real[order[:count]]
        moments = [x for z in (a, real) for x in (z.mean(0, dtype=np.float64), np.cov(z.T))]
        value, error = kernel_distance(a, b)
        row = rows.loc[f"kid_classifier_{count}"]
        assert (row["value"], row["standard_error"]) == pytest.approx((value, error), rel=1e-3)
        values = [
            rows.loc[f"{m}_classifier_{count}", "value"] for m in ("fd", "precision", "recall")
        ]
        expected = [frechet_distance(*moments), precision(a, b, 4), recall(a, b, 4)]
        assert values == pytest.approx(expected, rel=1e-3, abs=2 / count)


def test_the_ema_curve_is_that_of_the_frechet_distance(evaluated, finished):
    for name in ("ema_curves.csv", "ablation.csv", "ema_curves.md"):
        assert (evaluated / "reports" / name).read_text() == (
            finished / "reports" / name
        ).read_text()


def test_other_metrics_are_in_the_table_of_networks_and_in_metrics_json(evaluated, finished):
    rows = table(evaluated)
    networks = pd.read_csv(evaluated / "reports/networks.csv")
    fd_only = pd.read_csv(finished / "reports/networks.csv")
    added = [
        "kid_classifier_300",
        "kid_classifier_300: standard error",
        "precision_classifier_300",
        "recall_classifier_300",
    ]
    assert networks.columns.tolist() == [*fd_only.columns, *added]
    page = page_text((evaluated / "reports/index.html").read_text())
    metrics = json.loads((evaluated / "reports/metrics.json").read_text())
    (best,) = networks[networks["seeds"] == "fresh"].to_dict("records")
    for name in (added[0], *added[2:]):
        assert f">{name}</th>" in page
        assert metrics[f"G/best/{name}"] == best[name]
        for row in networks.itertuples():
            same = rows[
                (rows["metric"] == name)
                & (rows["ema_length"] == row.ema_length)
                & (rows["seeds"] == row.seeds)
            ]
            assert same["value"].tolist() == [networks.loc[row.Index, name]]


def test_all_metrics_are_logged_to_mlflow(evaluated, monkeypatch):
    class Run:
        rows, summary = [], {}

        def log(self, step, values, axis):
            self.rows.append((step, values))

        def log_summary(self, values):
            self.summary.update(values)

        def log_artifact(self, path): ...

    class State:
        folder = results = evaluated / ".state"

    rows = table(evaluated)
    monkeypatch.setattr("edm2.reporting.curves.draw_ema_curves", lambda *a: None)
    log_curves(
        StageContext("fid G", load(evaluated / "params.yaml"), REPLICATE, CPU, State(), Run()), rows
    )
    assert [step for step, _ in Run.rows] == [50, 100, 200]
    names = {f"{m}_classifier_300" for m in METRICS}
    for step, values in Run.rows:
        assert values.keys() == {f"ema_curve/{name}" for name in names}
        same = rows[(rows["ema_length"] == step / 1000) & (rows["seeds"] == "sweep")]
        for name in names:
            assert same[same["metric"] == name]["value"].tolist() == [values[f"ema_curve/{name}"]]
    assert names <= Run.summary.keys()


def test_two_ranks_give_the_table_and_pictures_of_one(two_ranks, evaluated):
    pd.testing.assert_frame_equal(table(two_ranks), table(evaluated), rtol=1e-6)
    for path in evaluated.glob("reports/samples/G-0/**/*.png"):
        assert (two_ranks / path.relative_to(evaluated)).read_bytes() == path.read_bytes()


def test_no_second_sample_count_if_a_metric_needs_more_held_out_images(project, finished):
    project()
    count, params = held_out(finished), load("params.yaml")
    for neighbors, counts in ((count - 1, [300, count]), (count, [300])):
        changes = {"metrics": ("fd", "precision"), "neighbors": neighbors}
        evaluation = params.evaluation.model_copy(update=changes)
        evaluator = Evaluator(params.model_copy(update={"evaluation": evaluation}), "G", CPU)
        assert evaluator.counts == counts


def test_strips_are_of_classes_that_have_images(project):
    """Nine images, none of the first class."""
    folder = project(
        evaluation__samples=9,
        evaluation__first_seed=1,
        evaluation__grid_classes=2,
        evaluation__confirm=False,
        evaluation__seed_blocks=2,
    )
    run_stage("fid", "G")
    strips = folder / "reports/samples/G-0/lengths"
    assert sorted(path.name for path in strips.iterdir()) == ["0001.png", "0002.png"]


def test_fewer_samples_than_dimensions_are_marked_as_singular(project, finished):
    folder = project(
        evaluation__samples=8,
        evaluation__grid_columns=1,
        evaluation__confirm=False,
        evaluation__allow_singular=True,
    )
    run_stage("fid", "G")
    run_stage("report")
    rows = table(folder)
    assert rows["singular"].tolist() == [True] * 3
    assert set(rows["metric"]) == {"fd_classifier_8"}
    assert np.isfinite(rows["value"]).all()
    assert pd.read_csv(folder / "reports/networks.csv")["singular"].all()
    assert pd.read_csv(folder / "reports/ablation.csv")["ours: singular"].tolist() == ["yes"]
    assert "Singular: these" in page_text((folder / "reports/index.html").read_text())
    assert "Singular: these" not in page_text((finished / "reports/index.html").read_text())
    assert "ours: singular" not in pd.read_csv(finished / "reports/ablation.csv")
