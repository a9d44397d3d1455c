"""Fixtures of all tests: one thread, and a tiny project with the results of all stages."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PER_CONFIG, STAGES, TINY, entered, make_project, run_stage

SLOW_FIXTURES = {"finished", "mlflow"}  # the results of all stages; a real MLflow store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a slow fixture; other slow tests have the mark in their files.

    Files with slow tests come first, so that of several workers none is left with a long one at the end.
    """
    for item in items:
        if not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.fixture(autouse=True)
def one_seed_and_one_thread() -> Iterator[None]:
    """More threads would slow tiny networks down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the results of all stages for config G; tests must not change it."""
    folder = make_project(tmp_path_factory.mktemp("finished"), TINY)
    with entered(folder):
        for name in STAGES:
            run_stage(name, "G" if name in PER_CONFIG else "")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """project(key__path=value, ...): enter a copy of the finished project with changed params.

    The copy has no state, so that stages run again.
    """

    def enter(**changes: Any) -> Path:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        folder = make_project(tmp_path / "project", {**TINY, **keys}, finished)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))
        return folder

    return enter


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one and DVC_ROOT."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
