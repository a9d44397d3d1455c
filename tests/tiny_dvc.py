"""A small real project of DVC and git, whose stages take no time, and `dvc repro` in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from forks import in_fork
from tiny import ROOT, TINY, write_params

STAGES = """\
stages:
  first:
    cmd: mkdir -p data/images && echo one > data/images/a && echo two > data/images/b
    params: [dataset.seed]
    deps: [source]
    outs: [data/images]
  second:
    cmd: mkdir -p reports && cat data/images/a data/images/b > reports/table && echo 1 > reports/metrics.json
    params: [vae.channels]
    deps: [data/images]
    outs: [reports/table]
    metrics: [reports/metrics.json]
"""
RESULTS = ("data/images/a", "data/images/b", "reports/table", "reports/metrics.json", "dvc.lock")


class Ended(NamedTuple):
    status: int
    text: str


def make_dvc_project(folder: Path) -> None:
    """The project with its results, and dvc.lock in the last commit."""
    folder.mkdir(parents=True)
    write_params(folder / "params.yaml", TINY)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "source").write_text("code\n")
    (folder / ".gitignore").write_text("/data/\n/reports/\n/.state/\n/.mlflow/\n")
    _git(folder, "init", "-q")
    assert dvc(folder, "init", "-q").status == 0
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    ended = dvc(folder, "repro")
    assert ended.status == 0, ended.text
    _git(folder, "add", ".")
    _git(folder, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "Start")


def copy_of(project: Path, folder: Path) -> Path:
    """A copy whose results are links to its cache, as DVC makes them."""
    shutil.copytree(project, folder, symlinks=True)
    for name in RESULTS[:-1]:
        found = [
            path for path in objects(folder) if path.read_bytes() == (folder / name).read_bytes()
        ]
        (folder / name).unlink()
        os.link(found[0], folder / name)
    return folder


def objects(folder: Path) -> list[Path]:
    return sorted((folder / ".dvc/cache/files/md5").glob("??/*"))


def entries(folder: Path) -> list[Path]:
    """Of the run cache."""
    return sorted((folder / ".dvc/cache/runs").glob("??/*/*"))


def results(folder: Path) -> dict[str, bytes]:
    """The content of all results that exist, and of dvc.lock."""
    paths = {name: folder / name for name in RESULTS}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def remove_results(folder: Path) -> None:
    for name in results(folder):
        (folder / name).unlink()


def dvc(folder: Path, *arguments: str) -> Ended:
    """A command of DVC, in a fork of this process."""
    import logging

    from dvc.cli import main

    def act() -> int:
        for handler in logging.getLogger("dvc").handlers:
            handler.setStream(sys.stderr)  # type: ignore[attr-defined]
        os.chdir(folder)
        os.environ.pop("DVC_ROOT", None)
        status: int = main(list(arguments))
        return status

    return Ended(*in_fork(act))


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)
