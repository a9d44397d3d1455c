"""Presets: they fit the model, keep the rest of the file, and give the paper's values."""

import pandas as pd
import pytest
from ruamel.yaml import YAML
from tiny import ROOT

import edm2
from edm2.params import load
from edm2.params.presets import apply_preset, preset_names

DEFAULT = (ROOT / "params.yaml").read_text()
SIZES = pd.read_csv(f"{edm2.__path__[0]}/reporting/paper/models.csv")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a preset's params file; its images exist, and it is loaded as outside of a launch."""

    def write(name, size=None):
        (tmp_path / "images").mkdir(exist_ok=True)
        text = apply_preset(DEFAULT, name, size)
        text = text.replace("/data/imagenet/train", str(tmp_path / "images"))
        (tmp_path / "params.yaml").write_text(text)
        return tmp_path / "params.yaml"

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return write


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(write, name):
    params = load(write(name))
    assert params.evaluation.detector == "inception"
    assert params.dataset.resolution == int(name.rpartition("-")[2])


@pytest.mark.parametrize(("name", "dataset"), [("imagenet-512", "latent"), ("imagenet-64", "rgb")])
def test_a_size_gives_the_learning_rate_and_dropout_of_the_paper(write, name, dataset):
    config = load(write(name, "XL")).resolved("G")
    row = SIZES[SIZES["size"] == "XL"].iloc[0]
    assert config.lr_ref == row["lr_ref"]
    assert config.dropout == row["dropout"]
    expected = {"latent": (-0.4, 1.0, 70_000), "rgb": (-0.8, 1.6, 35_000)}[dataset]
    assert (config.p_mean, config.p_std, config.lr_decay_batches) == expected


def test_other_fields_and_comments_are_kept():
    text = apply_preset(DEFAULT, "imagenet-512")
    before, after = (YAML(typ="safe").load(t) for t in (DEFAULT, text))
    assert after["tracking"] == before["tracking"]
    assert after["vae"] == before["vae"]
    assert text.count("#") == DEFAULT.count("#")
