"""Blocks of seeds and uniform labels, as in the paper; strips of the same seeds."""

import pandas as pd
import pytest
from PIL import Image
from tiny import run_stage

from edm2.reporting.selection import best_of, main_metric


@pytest.fixture
def blocks(project):
    folder = project(
        evaluation__seed_blocks=2, sampling__labels="uniform", evaluation__grid_classes=3
    )
    run_stage("fid", "G")
    run_stage("report")
    return folder


def test_networks_are_measured_on_disjoint_blocks_and_the_lowest_counts(blocks):
    table = pd.read_csv(blocks / "reports/fid/G.csv")
    main = table[table["samples"] == 300]
    sweep, fresh = (main[main["seeds"] == kind] for kind in ("sweep", "fresh"))
    assert sorted(sweep["first_seed"]) == [0] * 3 + [300] * 3
    assert sorted(fresh["first_seed"]) == [600, 900]
    for name, rows in sweep.groupby("network"):
        lowest = main_metric(table)
        (row,) = lowest[(lowest["network"] == name) & (lowest["seeds"] == "sweep")].itertuples()
        assert rows["value"].nunique() == 2
        assert (row.value, row.seed_blocks) == (rows["value"].min(), 2)
        assert row.mean == pytest.approx(rows["value"].mean())
        assert row.std == pytest.approx(rows["value"].std())
    best = best_of(table)
    assert best["value"] == sweep["value"].min()
    ablation = pd.read_csv(blocks / "reports/ablation.csv")
    expected = f"{best['mean']:.4g} ± {best['std']:.2g}"
    assert ablation["ours: mean ± std of 2 seed blocks"].tolist() == [expected]


def test_strips_show_the_same_seeds_at_every_length(blocks):
    strips = sorted((blocks / "reports/samples/G/lengths").iterdir())
    assert [path.name for path in strips] == ["0000.png", "0001.png", "0002.png"]
    heights = {Image.open(path).height for path in strips}
    grid = Image.open(next((blocks / "reports/samples/G").glob("*.png")))
    assert heights == {grid.height}  # three lengths here, three classes there
    page = (blocks / "reports/index.html").read_text()
    assert page.count("the same seeds at all EMA lengths</figcaption>") == 3
