"""What the report logs to MLflow: the best networks of each config, and whether each step helps."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from network_rows import concatenated, network_rows

from edm2.pipeline import report as module
from edm2.pipeline.report import best_by_config, report, sentences
from edm2.reporting.stage_outputs import StageOutputs

METRICS = {
    "vae/psnr": 20.0,
    "accuracy": 0.5,
    "F/best/ema_length": 0.1,
    "G/best/fd_classifier_1k": 2.0,
    "G/best/fd_classifier_1k/low": 1.5,
}


def networks(*configs):
    """Three trainings of each; those of G are better by 0.5."""
    return concatenated(
        *(
            network_rows((7.0, seed + better, 8.0), config=config, training_seed=seed)
            for config, better in zip(configs, (1.0, 0.5), strict=False)
            for seed in (0, 1, 2)
        )
    )


def test_only_metrics_of_best_networks_are_logged_by_config():
    assert best_by_config(METRICS) == {
        "F/ema_length": 0.1,
        "G/fd_classifier_1k": 2.0,
        "G/fd_classifier_1k_low": 1.5,
    }


def outputs_of(rows):
    outputs = StageOutputs(Path(), [], [])
    outputs.__dict__["networks"] = rows
    return outputs


def sentences_of(rows):
    return sentences(outputs_of(rows))


def test_each_step_has_a_sentence():
    own, common = sentences_of(networks("F", "G")).split("\n\n")
    for sentence in (own, common):
        assert "F → G improves fd_classifier_1k by 0.5 " in sentence
    assert sentences_of(networks("G")) == ""


def test_configs_that_cannot_be_compared_are_said():
    other = networks("G").assign(metric="fd_dinov2_1k")
    assert "fd_dinov2_1k" in sentences_of(concatenated(networks("F"), other))


def test_a_pipeline_run_has_the_metrics_of_its_best_config():
    both = {**METRICS, "F/best/fd_classifier_1k": 3.0}
    logged = module.main_metrics(outputs_of(networks("F", "G")), both)
    assert logged == {
        "best/fd_classifier_1k": 2.0,
        "best/fd_classifier_1k_low": 1.5,
        "best/F/ema_length": 0.1,
        "best/F/fd_classifier_1k": 3.0,
        "best/G/fd_classifier_1k": 2.0,
        "best/G/fd_classifier_1k_low": 1.5,
    }
    assert set(module.main_metrics(outputs_of(networks("G")), both)) == {
        "best/fd_classifier_1k",
        "best/fd_classifier_1k_low",
    }


@pytest.mark.parametrize("configs", [("G",), ("F", "G")])
def test_the_report_logs_metrics_tables_and_a_note(tmp_path, monkeypatch, configs):
    logged, notes, files, parent = {}, [], [], []
    run = SimpleNamespace(
        log_summary=logged.update,
        set_note=notes.append,
        log_artifact=lambda path: files.append(path.name),
        log_to_pipeline=lambda metrics, tags: parent.append((metrics, tags)),
    )

    def write(outputs, folder, facts):
        folder.mkdir()
        (folder / "sweeps").mkdir()
        (folder / "metrics.json").write_text(json.dumps(METRICS))

    outputs = outputs_of(networks(*configs))
    monkeypatch.setattr(module, "StageOutputs", lambda *args: outputs)
    monkeypatch.setattr(module, "write_report", write)
    monkeypatch.setattr(module, "load_manifest", lambda folder: {"classes": []})
    monkeypatch.setattr(module, "run_facts", lambda *args: None)
    monkeypatch.setattr(module, "log_best_model", lambda context: None)
    params = SimpleNamespace(replicates=())
    report(
        SimpleNamespace(
            out=lambda path: tmp_path / path,
            params=params,
            run=run,
            device=None,
            conclude=lambda text: None,
        )
    )
    assert logged == best_by_config(METRICS)
    ((metrics, tags),) = parent
    assert metrics["best/fd_classifier_1k"] == 2.0
    assert [tags["mlflow.note.content"]] == notes
    assert "- Config G: fd_classifier_1k " in notes[0]
    assert ("F → G" in notes[0]) == (configs == ("F", "G"))
    assert {"index.html", "ablation.csv"} <= set(files)
