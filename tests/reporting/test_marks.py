"""Values and tables that the report refuses, and what it marks."""

import pandas as pd
import pytest
from network_rows import concatenated, network_rows

from edm2.params.errors import NotFiniteError, UserError
from edm2.params.replicates import Replicate
from edm2.reporting.selection import (
    best_of,
    quality_columns,
    read_networks,
)
from edm2.reporting.stage_outputs import StageOutputs, nonfinite_steps
from edm2.reporting.tables import (
    ablation_table,
    baseline_table,
    networks_table,
)
from edm2.runtime.checksums import write_checksum

CURVE = network_rows((3.0, 1.0, 2.0))


@pytest.mark.parametrize("value", ["", "nan", "inf"])
def test_a_value_that_is_not_finite_is_refused_by_its_row(tmp_path, value):
    """It is the minimum of no curve, and is not passed over."""
    table = network_rows((3.0, 1.0, 2.0), guidance=1.5).astype({"value": object})
    table.loc[2, "value"] = value
    table.to_csv(tmp_path / "G-0.csv", index=False)
    named = r"G-0\.csv, network 1000-all-0.1, guidance 1.5: fd_classifier_1k"
    with pytest.raises(NotFiniteError, match=named):
        read_networks([tmp_path / "G-0.csv"])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("ema_length", "emb_length", "column ema_length is missing"),
        ("2.0", "2x0", "value: '2x0': expected a number"),
        ("fd_classifier_1k", '"fd', "cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, old, new, named):
    text = network_rows((3.0, 1.0, 2.0)).to_csv(index=False)
    (tmp_path / "G.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=rf"G\.csv: {named}.*dvc repro"):
        read_networks([tmp_path / "G.csv"])


@pytest.mark.parametrize("text", ["", "nimg,train/loss\n256,1.5\n", "nimg\n2\x006\n"])
def test_damaged_training_curves_are_refused_by_name(tmp_path, text):
    (tmp_path / "training").mkdir()
    (tmp_path / "training/G-0.csv").write_text(text, encoding="utf-8")
    write_checksum(tmp_path / "training/G-0.csv")
    with pytest.raises(UserError, match=r"training/G-0\.csv: .*dvc repro"):
        _ = StageOutputs(tmp_path, [Replicate("G", 0)], []).training


@pytest.mark.parametrize("text", ['{"psnr": 7', '{"psnr": "7"}', "[7]", '{"psnr": NaN}'])
def test_damaged_metrics_are_refused_by_name(tmp_path, text):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/metrics.json").write_text(text, encoding="utf-8")
    write_checksum(tmp_path / "vae/metrics.json")
    with pytest.raises(UserError, match=r"vae/metrics\.json: .*dvc repro"):
        StageOutputs(tmp_path, [Replicate("G", 0)], []).metrics("vae")


def test_damaged_names_of_baselines_are_refused():
    with pytest.raises(UserError, match=r"ceconstructions/fd_classifier_1k: expected held_out or"):
        baseline_table(CURVE, {"ceconstructions/fd_classifier_1k": 1.0})


def test_tables_of_older_revisions_say_nothing_of_chance(tmp_path):
    CURVE.drop(columns="at_chance").to_csv(tmp_path / "G.csv", index=False)
    assert not read_networks([tmp_path / "G.csv"])["at_chance"].any()


def test_a_detector_at_chance_is_marked_in_all_tables():
    table = network_rows((3.0, 1.0, 2.0), at_chance=True)
    assert ablation_table(table)["ours: detector at chance"].tolist() == ["yes"]
    assert networks_table(table)["at_chance"].tolist() == [True] * 3
    assert quality_columns(best_of(table))["detector at chance"] == "yes"
    for unmarked in (ablation_table(CURVE), networks_table(CURVE)):
        assert not [name for name in unmarked if "chance" in name]


def test_a_training_with_steps_that_are_not_finite_is_marked():
    """A quarter of the four rows' steps; the row at 250 is of another measurement."""
    curves = pd.DataFrame(
        {
            "nimg": [100, 200, 250, 300, 400],
            "train/nonfinite_gradients": [0.0, 0.0, None, 7.0, 0.0],
            "train/nonfinite_steps": [None, None, None, 1.0, None],
        }
    )
    mark = nonfinite_steps(curves)
    assert "25.00%" in mark
    assert "300 images" in mark
    assert nonfinite_steps(curves.drop(columns="train/nonfinite_steps")) == ""
    assert nonfinite_steps(curves.assign(**{"train/nonfinite_steps": float("nan")})) == ""
    table = ablation_table(concatenated(CURVE.assign(config="A"), CURVE), {"A": mark})
    assert table["ours: training not finite"].fillna("").tolist() == [mark, ""]
