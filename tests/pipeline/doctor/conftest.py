"""A small project of DVC to break."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_dvc import copy_of, make_dvc_project


@pytest.fixture
def broken(made_once: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with all results, which a test may break; the current folder."""
    folder = copy_of(made_once("tiny-dvc", make_dvc_project), tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "weights"))
    return folder
