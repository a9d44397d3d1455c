"""What all tests share: one thread, and a tiny project with all stages done."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PER_CONFIG, STAGES, TINY, make_project, run_stage


@pytest.fixture(autouse=True)
def one_seed_and_one_thread() -> Iterator[None]:
    """Threads of tiny networks wait for each other more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all stages done for config G; tests only read it."""
    folder = make_project(tmp_path_factory.mktemp("finished"), TINY)
    before = os.getcwd(), os.environ.get("DVC_ROOT")
    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    try:
        for name in STAGES:
            run_stage(name, "G" if name in PER_CONFIG else "")
    finally:
        os.chdir(before[0])
        del os.environ["DVC_ROOT"]
        if before[1] is not None:
            os.environ["DVC_ROOT"] = before[1]
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A copy of the finished project without its state, entered; its params may be changed."""

    def enter(**changes: Any) -> Path:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        folder = make_project(tmp_path / "project", {**TINY, **keys})
        for results in ("data", "models", "reports"):
            shutil.copytree(finished / results, folder / results)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))
        return folder

    return enter


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root: DVC_ROOT, and the current folder."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
