"""The best network of a project as a model for MLflow."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import TINY, write_params

from edm2.params import load
from edm2.pipeline import best_model
from edm2.pipeline.best_model import log_best_model, without_header
from edm2.pipeline.image_model import ImageModel
from edm2.reporting.selection import best_of, metrics_of, read_networks
from edm2.runtime.files import sha256


@pytest.fixture
def log(finished, tmp_path, monkeypatch):
    """log(key__path=value, ...): what a report with changed params logs: pairs of a model and its folder."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("DVC_ROOT", str(finished))

    def log(**changes):
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        path = write_params(tmp_path / "params.yaml", {**TINY, "tracking.mlflow": True, **keys})
        logged = []
        run = SimpleNamespace(log_model=lambda *model: logged.append(model))
        state = SimpleNamespace(folder=tmp_path / "state")
        log_best_model(SimpleNamespace(params=load(path), run=run, state=state))
        return logged

    return log


def test_the_best_network_is_logged_with_metrics_and_card(log):
    log()
    ((model, folder),) = log()  # of a launch after one that was killed
    table = read_networks([Path("reports/fid/G-0.csv")])
    best = best_of(table)
    assert (model.name, folder.name) == ("digits-G-0", "digits-G-0")
    assert model.metrics == metrics_of(table, best)
    assert model.params["network"] == best["network"]
    assert float(model.params["ema_length"]) == best["ema_length"]
    assert model.dataset == ["digits train", sha256(Path("data/images/manifest.json"))[:16]]
    assert model.note.startswith("# digits-G-0")
    assert model.note in (folder / "README.md").read_text()
    network = ImageModel(folder, best_model.image_model.torch.device("cpu"))
    images = network.predict(pd.DataFrame({"seed": [0, 1], "label": [3, 4]}))
    assert (images.dtype, images.shape) == (np.uint8, (2, 16, 16, 3))
    assert '"shape": [-1, 16, 16, 3]' in model.signature["outputs"]
    assert f'"default": {TINY["sampling.steps"]}' in model.signature["params"]


@pytest.mark.parametrize("key", ["tracking__mlflow", "tracking__log_model"])
def test_params_turn_it_off(log, tmp_path, key):
    assert log(**{key: False}) == []
    assert not (tmp_path / "state").exists()


def test_a_report_without_networks_goes_on(log, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(best_model, "choose_best", lambda *args: missing(tmp_path))
    assert log() == []
    error = capsys.readouterr().err
    assert "warning" in error
    assert "none.safetensors" in error


def missing(folder):
    from edm2.params.replicates import Replicate
    from edm2.pipeline.export_choice import Choice

    return Choice(Replicate("G", 0), folder / "none.safetensors", {}, {"guidance": 1.0})


def test_a_note_has_no_header():
    assert without_header("---\na: b\n---\n\n# Title\n\n---\nText\n") == "# Title\n\n---\nText\n"
    assert without_header("# Title\n") == "# Title\n"
