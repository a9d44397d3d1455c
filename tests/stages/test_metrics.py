"""All measures on a tiny project: what is in the table, and that it is what it says."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY, make_project, run_stage, start

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.features.classifier import load_classifier
from edm2.metrics import frechet_distance, kernel_distance, precision, recall
from edm2.params import load
from edm2.pipeline.evaluator import Evaluator
from edm2.runtime.manifest import read_manifest
from edm2.sampling import heun
from edm2.sampling.generate import seed_labels, seed_noise
from edm2.vae.codec import load_codec

MEASURES = ["fd", "kid", "precision", "recall"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    make_project(folder, {**TINY, "evaluation.metrics": MEASURES, "evaluation.neighbors": 4})
    for results in ("data", "models", "reports"):
        shutil.copytree(finished / results, folder / results)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        run_stage("fid", "G")
        run_stage("report")
    return folder


def table(folder):
    return pd.read_csv(folder / "reports/fid/G.csv")


def held_out(folder):
    return read_manifest(folder / "data/images")["images"]["held_out"]


def test_each_network_has_a_row_per_measure_and_sample_count(measured):
    rows, count = table(measured), held_out(measured)
    names = [f"{m}_classifier_{n}" for n in (300, count) for m in MEASURES]
    for seeds, networks in (("sweep", 3), ("fresh", 1)):
        assert rows[rows["seeds"] == seeds]["metric"].tolist() == names * networks
    kid = rows["metric"].str.startswith("kid")
    assert (rows["standard_error"].notna() == kid).all()
    assert (rows[kid]["standard_error"] > 0).all()
    frechet = rows["metric"].str.startswith("fd")
    train = read_manifest(measured / "data/images")["images"]["train"]
    assert set(rows[frechet]["reference"]) == {train}
    assert (rows[~frechet]["reference"] == rows[~frechet]["samples"]).all()
    assert not rows["singular"].any()


def test_the_frechet_distance_does_not_change_by_other_measures(measured, finished):
    rows = table(measured)
    frechet = rows[rows["metric"].str.startswith("fd")].reset_index(drop=True)
    pd.testing.assert_frame_equal(frechet, table(finished), check_dtype=False)


def features_of(folder, network, seeds):
    """Of generated images, and of all training images."""
    params = load(folder / "params.yaml").of("G")
    latents = LatentShards(folder / "data/latents", "train")
    denoiser = set_network(
        denoiser_for("G", params, latents.shape, 10),
        load_file(folder / f"models/sweep/G/{network}.safetensors"),
    )
    labels = seed_labels(seeds, 10, "balanced")
    x = heun(lambda x, s: denoiser(x, s, labels), seed_noise(seeds, latents.shape), 3)
    images = load_codec(folder / "models/vae", CPU).decode(latents.normalization.denormalize(x))
    detector = load_classifier(folder / "models/features", CPU)
    train = ImageShards(folder / "data/images", "train")
    real = train.batch(range(len(train)))[0]
    return tuple(detector.features(z).numpy() for z in (images, real))


def test_values_are_those_of_the_images(measured):
    """Made and measured here once more, the training images drawn in the order that is fixed."""
    rows = table(measured)
    rows = rows[(rows["ema_length"] == 0.1) & (rows["seeds"] == "sweep")].set_index("metric")
    ours, theirs = features_of(measured, rows["network"].iloc[0], range(300))
    from edm2.runtime.randomness import generator

    order = np.argsort(generator(0, "evaluation/reference").permutation(len(theirs)))
    for count in (300, held_out(measured)):
        a, b = ours[:count], theirs[order[:count]]
        moments = [x for z in (a, theirs) for x in (z.mean(0, dtype=np.float64), np.cov(z.T))]
        value, error = kernel_distance(a, b)
        row = rows.loc[f"kid_classifier_{count}"]
        assert (row["value"], row["standard_error"]) == pytest.approx((value, error), rel=1e-3)
        found = [
            rows.loc[f"{m}_classifier_{count}", "value"] for m in ("fd", "precision", "recall")
        ]
        expected = [frechet_distance(*moments), precision(a, b, 4), recall(a, b, 4)]
        assert found == pytest.approx(expected, rel=1e-3, abs=2 / count)


def test_the_curve_is_that_of_the_frechet_distance(measured, finished):
    for name in ("ema_curves.csv", "ablation.csv", "ema_curves.md"):
        ours, theirs = ((f / "reports" / name).read_text() for f in (measured, finished))
        assert ours == theirs


def test_other_measures_stand_in_the_table_of_networks_and_in_the_metrics(measured, finished):
    rows = table(measured)
    networks = pd.read_csv(measured / "reports/networks.csv")
    before = pd.read_csv(finished / "reports/networks.csv")
    added = [
        "kid_classifier_300",
        "kid_classifier_300: standard error",
        "precision_classifier_300",
        "recall_classifier_300",
    ]
    assert networks.columns.tolist() == [*before.columns, *added]
    page = (measured / "reports/index.html").read_text()
    metrics = json.loads((measured / "reports/metrics.json").read_text())
    best = networks[networks["seeds"] == "sweep"]
    best = best.loc[best["value"].idxmin()]
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


def test_mlflow_is_told_all_measures(measured, monkeypatch):
    from edm2.pipeline.runner import StageContext
    from edm2.pipeline.sweep_evaluation import log_curves

    class Run:
        logged, told = [], {}

        def log(self, step, values, axis):
            self.logged.append((step, values))

        def summary(self, values):
            self.told.update(values)

        def artifact(self, path): ...

    class State:
        folder = results = measured / ".state"

    rows = table(measured)
    monkeypatch.setattr("edm2.pipeline.sweep_evaluation.draw_ema_curves", lambda *a: None)
    log_curves(
        StageContext("fid G", load(measured / "params.yaml"), "G", CPU, State(), Run()), rows
    )
    assert [step for step, _ in Run.logged] == [50, 100, 200]
    names = {f"{m}_classifier_300" for m in MEASURES}
    for step, values in Run.logged:
        assert values.keys() == {f"ema_curve/{name}" for name in names}
        same = rows[(rows["ema_length"] == step / 1000) & (rows["seeds"] == "sweep")]
        for name in names:
            assert same[same["metric"] == name]["value"].tolist() == [values[f"ema_curve/{name}"]]
    assert names <= Run.told.keys()


def test_two_ranks_measure_what_one_measures(project, measured):
    folder = project(evaluation__metrics=MEASURES, evaluation__neighbors=4)
    ranks = start(
        folder,
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=127.0.0.1:0",
        "-m",
        "stages.fid",
        "G",
    )
    assert ranks.wait() == 0, ranks.stderr.read()
    pd.testing.assert_frame_equal(table(folder), table(measured), rtol=1e-6)
    for path in measured.glob("reports/samples/G/**/*.png"):
        assert (folder / path.relative_to(measured)).read_bytes() == path.read_bytes()


def test_held_out_images_too_few_for_a_measure_set_no_second_count(project, finished):
    project()
    count, params = held_out(finished), load("params.yaml")
    for neighbors, counts in ((count - 1, [300, count]), (count, [300])):
        changes = {"metrics": ("fd", "precision"), "neighbors": neighbors}
        chosen = params.evaluation.model_copy(update=changes)
        evaluator = Evaluator(params.model_copy(update={"evaluation": chosen}), "G", CPU)
        assert evaluator.counts == counts


def test_pictures_are_of_classes_that_are_there(project):
    """Nine images, none of them of the first class."""
    folder = project(
        evaluation__samples=9,
        evaluation__first_seed=1,
        evaluation__grid_classes=2,
        evaluation__confirm=False,
        evaluation__seed_blocks=2,
    )
    run_stage("fid", "G")
    strips = folder / "reports/samples/G/lengths"
    assert sorted(path.name for path in strips.iterdir()) == ["0001.png", "0002.png"]


def test_fewer_samples_than_dimensions_are_marked_everywhere(project, finished):
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
    assert "Singular: these" in (folder / "reports/index.html").read_text()
    assert "Singular: these" not in (finished / "reports/index.html").read_text()
    assert "ours: singular" not in pd.read_csv(finished / "reports/ablation.csv")
