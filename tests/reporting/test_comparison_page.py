"""The page of a comparison."""

import re

import pandas as pd
import pytest
from network_rows import concatenated, network_rows
from page_text import page_text

from edm2.metrics.effects import effect
from edm2.params import UserError
from edm2.reporting import comparison_page
from edm2.reporting.changes import Experiment
from edm2.reporting.comparison_page import Comparison, corrections, write_page
from edm2.reporting.verdict import Verdict


def experiment(values, **params):
    """A training for each value at the best EMA length, of each config."""
    rows = [
        network_rows((3.0, value, 3.0), config=config, training_seed=seed)
        for config, of_config in values.items()
        for seed, value in enumerate(of_config)
    ]
    return Experiment(concatenated(*rows), params, dict.fromkeys(values, params))


LADDER = {"E": (2.0, 2.1, 2.2), "F": (1.0, 1.11, 1.2), "G": (1.0, 1.2, 1.1)}


@pytest.mark.slow
def test_the_page_has_everything_inside(tmp_path):
    comparison = Comparison.of({"a": experiment(LADDER, rate=1)})
    page = page_text(write_page(comparison, tmp_path).read_text(encoding="utf-8"))
    for verdict in comparison.verdicts[::2]:
        assert f"<strong>{verdict.sentence}</strong>" in page
    assert page.index("E → F improves") < page.index("<figure") < page.index("<table")
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert page.count('src="data:image/svg') == 2
    assert "2 comparisons" in page
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert {name: len(rows) for name, rows in tables.items()} == {
        "verdict": 4,
        "compare": 3,
        "trainings": 9,
        "params": 0,
    }
    assert {"forest.png", "compare.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(comparison_page, "write_chart", lambda *_: None)
    monkeypatch.setattr(comparison_page, "chart", lambda spec, caption: caption)


def test_params_have_the_values_of_both(tmp_path, without_figures):
    both = {"a": experiment({"G": (1.0,)}, rate=1), "b": experiment({"G": (2.0,)}, rate=None)}
    page = write_page(Comparison.of(both), tmp_path).read_text(encoding="utf-8")
    row = pd.read_csv(tmp_path / "params.csv", dtype=str, keep_default_na=False).iloc[0]
    assert row.tolist() == ["G", "G (rate=null)", "rate", "1", "null"]
    assert "seeds: [0, 1, 2]" in page


def test_one_config_has_a_page_without_answers(tmp_path, without_figures):
    comparison = Comparison.of({"a": experiment({"G": (1.0, 1.1)})})
    page = page_text(write_page(comparison, tmp_path).read_text(encoding="utf-8"))
    assert "Nothing to compare: a has one config" in page
    assert "circles mark the minima" in page
    assert "Difference of each change" not in page
    assert not (tmp_path / "forest.png").exists()


@pytest.mark.parametrize(
    ("trainings", "expected"),
    [
        ((2,), "not corrected"),
        ((3, 3), "2 comparisons"),
        ((3, 3, 1), "not counted: 1"),
        ((1,), "several seeds"),
    ],
)
def test_the_number_of_comparisons_is_named(trainings, expected):
    """Of each change there are two verdicts, at either choice of the EMA length."""
    effects = [
        effect(dict.fromkeys(range(n), 1.0), {k: 1.0 + 0.1 * k for k in range(n)})
        for n in trainings
    ]
    verdicts = [
        Verdict("F", "G", "fid_50k", choice, "fresh seeds", each, (1, 1), {})
        for each in effects
        for choice in ("own best", "common")
    ]
    assert expected in corrections(verdicts)


def test_different_metrics_are_refused():
    other = experiment({"G": (1.0,)}, rate=2)
    other.networks["metric"] = other.networks["metric"].str.replace("1k", "2k")
    with pytest.raises(UserError, match="a fd_classifier_1k, b fd_classifier_2k"):
        Comparison.of({"a": experiment({"G": (1.0,)}), "b": other})
