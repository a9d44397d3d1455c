"""`edm2` in this process and as a program; a project without results."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from color_images import color_detectors, pixels, write_folder
from tiny import ROOT, TINY, make_project

from edm2.cli import main

PROGRAM = (sys.executable, "-c", "from edm2.cli import main; main()")


@dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes:
        status: the exit status.
        out, err: standard output and standard error.
    """

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `edm2` in this process, which keeps its current folder and its handlers of signals.

    Ctrl-C acts as in a terminal, even if these tests run in the background of a shell.
    """

    def call(*arguments: object) -> Result:
        folder, handler = Path.cwd(), signal.getsignal(signal.SIGTERM)
        ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as end:
                main([str(argument) for argument in arguments])
        finally:
            os.chdir(folder)
            signal.signal(signal.SIGTERM, handler)
            signal.signal(signal.SIGINT, ctrl_c)
        assert isinstance(end.value.code, int)
        return Result(end.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def program() -> Callable[..., Result]:
    """Run `edm2` as a program, in the folder `cwd`."""

    def call(
        *arguments: object, cwd: Path, stdout: int = subprocess.PIPE, **variables: str
    ) -> Result:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        environment.pop("DVC_ROOT", None)  # only DVC sets it, for stages
        completed = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return Result(completed.returncode, completed.stdout or "", completed.stderr)

    return call


@pytest.fixture
def empty_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], Path]:
    """A project without results, entered; its params may be changed."""

    def enter(changes: dict[str, Any]) -> Path:
        folder = make_project(tmp_path / "project", {**TINY, **changes})
        monkeypatch.chdir(folder)
        monkeypatch.delenv("DVC_ROOT", raising=False)
        return folder

    return enter


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two small detectors, in an empty folder; no other folder is written to."""
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with color_detectors():
        yield


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder of 30 images."""
    return write_folder(tmp_path / "fake", pixels(30, 0))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder of 40 images."""
    return write_folder(tmp_path / "real", pixels(40, 1))


@pytest.fixture
def outside_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, that is in no project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path
