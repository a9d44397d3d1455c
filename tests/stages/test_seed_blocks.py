"""Seed blocks and uniform labels, as in the paper; strips of the same seeds."""

import numpy as np
import pandas as pd
import pytest
from page_text import page_text
from PIL import Image
from tiny import TINY, entered, make_project, run_stage

from edm2.reporting.selection import best_of, main_metric


@pytest.fixture(scope="module")
def two_blocks(finished, tmp_path_factory):
    """A project with two seed blocks."""
    changes = {
        "evaluation.seed_blocks": 2,
        "evaluation.grid_classes": 3,
        "sampling.labels": "uniform",
    }
    folder = make_project(tmp_path_factory.mktemp("two_blocks"), {**TINY, **changes}, finished)
    with entered(folder):
        run_stage("fid", "G")
        run_stage("report")
    return folder


def test_networks_are_evaluated_on_disjoint_seed_blocks_and_their_mean_counts(two_blocks):
    table = pd.read_csv(two_blocks / "reports/fid/G-0.csv")
    main = table[table["samples"] == 300]
    sweep, fresh = (main[main["seeds"] == kind] for kind in ("sweep", "fresh"))
    assert sorted(sweep["first_seed"]) == [0] * 3 + [300] * 3
    assert sorted(fresh["first_seed"]) == [600, 900]
    for name, rows in sweep.groupby("network"):
        minima = main_metric(table)
        (row,) = minima[(minima["network"] == name) & (minima["seeds"] == "sweep")].itertuples()
        assert rows["value"].nunique() == 2
        assert row.value == pytest.approx(rows["value"].mean())
        assert (row.lowest, row.seed_blocks) == (rows["value"].min(), 2)
        assert row.std == pytest.approx(rows["value"].std())
    best = best_of(table)
    assert best["lowest"] == sweep["value"].min()
    ablation = pd.read_csv(two_blocks / "reports/ablation.csv")
    assert ablation["ours: lowest of 2 seed blocks"].tolist() == pytest.approx([best["lowest"]])
    on_others = []
    curves = sweep.pivot(index="ema_length", columns="first_seed", values="value")
    for first_seed in curves:
        (other,) = set(curves) - {first_seed}
        on_others.append(curves.loc[curves[other].idxmin(), first_seed])
    assert ablation["ours: fd_classifier_300"].tolist() == pytest.approx([np.mean(on_others)])


def test_strips_show_the_same_seeds_at_every_length(two_blocks):
    strips = sorted((two_blocks / "reports/samples/G-0/lengths").iterdir())
    assert [path.name for path in strips] == ["0000.png", "0001.png", "0002.png"]
    heights = {Image.open(path).height for path in strips}
    grid = Image.open(next((two_blocks / "reports/samples/G-0").glob("*.png")))
    assert heights == {grid.height}  # strips of three lengths, a grid of three classes
    page = page_text((two_blocks / "reports/index.html").read_text())
    assert page.count("<figcaption>class ") == 3
