"""Params with tiny numbers, and a project root for state and logs."""

from pathlib import Path

import pytest

from edm2.params import Params, load


@pytest.fixture(scope="session")
def params() -> Params:
    return load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project root: DVC_ROOT, and the current folder."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
