"""The stage `prepare` lists the images once."""

from types import SimpleNamespace

import numpy as np
import pytest

from edm2.data.tally import Tally
from edm2.params import load
from edm2.pipeline import preparation
from edm2.runtime.manifest import read_manifest

ROOT = preparation.__file__.rsplit("/edm2/", 1)[0]


class Grays:
    """Four images of two classes; one is doubtful once it is read, and another from the start."""

    def __init__(self, dataset, root) -> None:
        self.classes, self.labels = ["a", "b"], np.array([0, 0, 1, 1])
        self.left_out, self.doubtful, self.left_out_per_class = Tally(), Tally(), [0, 1]
        self.left_out.add("no image", "b/x")
        self.doubtful.add("found", "a")

    def image(self, index):
        if index == 0:
            self.doubtful.add("read", "b")
        return np.zeros((16, 16, 3), np.uint8)

    def split(self, held_out, seed):
        return np.array([0, 2]), np.array([1, 3])

    def identity(self):
        return "grays"


@pytest.fixture
def opened(monkeypatch):
    """The sources that were opened."""
    sources = []

    def open_source(dataset):
        sources.append(Grays(dataset, None))
        return sources[-1]

    monkeypatch.setattr(preparation, "open_source", open_source)
    return sources


def test_images_are_listed_once_and_anew_for_each_run(opened, tmp_path, capsys) -> None:
    params = load(f"{ROOT}/params.yaml")
    for run in (1, 2):
        out = tmp_path / str(run)
        assert preparation.external_inputs(params) == "grays"
        preparation.prepare(
            SimpleNamespace(
                params=params, out=lambda path, out=out: out / path, conclude=lambda text: None
            )
        )
        assert len(opened) == run
    manifest = read_manifest(tmp_path / "2/data/images")
    assert (manifest["left_out"], manifest["left_out_per_class"]) == ({"no image": 1}, [0, 1])
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings == ["warning: 1 found: a", "warning: 1 read: b"] * 2
