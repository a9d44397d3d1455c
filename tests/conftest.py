"""Fixtures of all tests: one thread, and a tiny project with the results of all stages.

Heavy modules are imported by the fixtures that need them: the process that distributes the tests needs none.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tiny import PER_CONFIG, STAGES, TINY, ParsedOnce, entered, make_project, run_stage

from edm2.params import registry, yaml_file

SLOW_FIXTURES = {"finished", "mlflow"}  # the results of all stages; a real MLflow store


def pytest_configure() -> None:
    """What is imported and collected lives until the end: looking for garbage in it takes seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or triton reports objects that are left at the end of the process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a slow fixture; other slow tests have the mark in their files.

    Files with slow tests come first, so that of several workers none is left with a long one at the
    end. The first of them makes what `made_once` keeps, while other workers run those that need none.
    """
    for item in items:
        if not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    sharing = {item.path for item in items if "made_once" in getattr(item, "fixturenames", ())}
    first = next((item.path for item in items if item.path in sharing), None)
    items.sort(key=lambda item: (item.path != first, item.path not in slow, item.path in sharing))


@pytest.fixture(autouse=True, scope="session")
def parsed_once() -> Iterator[None]:
    """In this process, each YAML text is parsed once, and entry points of packages are sought once."""

    @cache
    def found(path: tuple[str, ...], group: str) -> EntryPoints:
        return entry_points(group=group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_file, "YAML", lambda typ: ParsedOnce())
        patch.setattr(registry, "entry_points", lambda group: found(tuple(sys.path), group))
        yield


@pytest.fixture(scope="session")
def set_seed() -> Callable[[int], Any]:
    """torch.manual_seed takes 2 ms, because it also turns to devices that do not exist."""
    import torch

    gpu = torch.cuda.is_available()
    return torch.manual_seed if gpu else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def one_seed_and_one_thread(set_seed: Callable[[int], Any]) -> None:
    """More threads would slow tiny networks down."""
    import torch

    torch.set_num_threads(1)
    set_seed(0)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """made_once(name, make): the folder `name`, filled by make(folder), shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with FileLock(base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def finished(made_once: Callable[..., Path]) -> Path:
    """A project with the results of all stages for config G; tests must not change it."""

    def make(folder: Path) -> None:
        with entered(make_project(folder, TINY)):
            for name in STAGES:
                run_stage(name, "G" if name in PER_CONFIG else "")

    return made_once("finished", make)


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


@pytest.fixture(scope="session")
def exported_network(tmp_path_factory):
    """The folder of a tiny exported network, for all tests of a process."""
    from tiny_network import write_network  # imports PyTorch

    return write_network(tmp_path_factory.mktemp("exported") / "net")


@pytest.fixture
def copy_of_network(exported_network, tmp_path):
    """A folder of such a network, which a test may change."""
    return Path(shutil.copytree(exported_network, tmp_path / "net"))
