"""What the project runs in: packages, git, the params, and free space."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from edm2.params import UserError, load
from edm2.params.yaml_file import read_yaml
from edm2.pipeline.declaration import PIPELINE
from edm2.pipeline.doctor.dvc_files import CONFIG, cache_folder
from edm2.pipeline.doctor.finding import Finding
from edm2.pipeline.git import git
from edm2.runtime.system_errors import EXTRAS

PARAMS = Path("params.yaml")
OPTIONAL = {"huggingface": "datasets", "stable_diffusion": "diffusers"}  # packages, by value
MIN_FREE_BYTES = 2**30
MIN_FREE_FILES = 1000
SECONDS_OF_GIT = 60  # a command of git that takes longer than that is rare


def packages() -> Iterator[Finding]:
    """Packages that stages need, and their versions."""
    from packaging.requirements import Requirement

    wanted = {"", "pipeline", *_extras_of_params()}
    for requirement in map(Requirement, requires("edm2") or ()):
        extras = [extra for extra in wanted if _needs(requirement.marker, extra)]
        if not extras:
            continue
        name = f"edm2[{extras[0]}]" if extras[0] else "edm2"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problem, meaning = "is not installed", "Stages need it."
        else:
            if requirement.specifier.contains(installed, prereleases=True):
                continue
            problem = f"has version {installed}, expected {requirement.specifier}"
            meaning = "Stages may fail, or compute something else."
        yield Finding(requirement.name, problem, meaning, f"Run `pip install '{name}'`.")


def _needs(marker: object, extra: str) -> bool:
    return marker is None or bool(marker.evaluate({"extra": extra}))  # type: ignore[attr-defined]


def _extras_of_params() -> set[str]:
    """The extras that values of params ask for, even where other values are wrong."""
    try:
        tree = read_yaml(PARAMS)
        values = (tree["dataset"]["source"], tree["codec"]["kind"])
    except (UserError, TypeError, KeyError):
        return set()
    return {EXTRAS[package] for value, package in OPTIONAL.items() if value in values}


def repository() -> Iterator[Finding]:
    """git, which DVC needs for its files and for experiments."""
    if CONFIG.is_file() and re.search(
        r"no_scm\s*=\s*true", CONFIG.read_text(errors="replace"), re.I
    ):
        return
    if shutil.which("git") is None:
        yield Finding("git", "is not installed", "DVC does not run without it.", "Install it.")
        return
    folder = git("rev-parse", "--absolute-git-dir")
    if folder is None:
        reason = "is in no repository of git that can be read"
        start = "Run `git init; git add .; git commit -m Start`."
        yield Finding(Path.cwd(), reason, "DVC does not run without one.", start)
        return
    if git("rev-parse", "--verify", "HEAD") is None:
        meaning = "`dvc exp run` needs one to start from."
        remedy = "Run `git add .; git commit -m Start`."
        yield Finding(Path(folder), "has no commit", meaning, remedy)
    lock = Path(folder, "index.lock")
    if lock.exists() and time.time() - lock.stat().st_mtime > SECONDS_OF_GIT:
        meaning = "git, and `dvc exp run`, stop with `Unable to create index.lock`."
        remedy = "Remove it when no command of git runs."
        yield Finding(lock, "was left by a command of git that was killed", meaning, remedy)


def params() -> Iterator[Finding]:
    """params.yaml and dvc.yaml."""
    for file, read in ((PARAMS, load), (PIPELINE, read_yaml)):
        try:
            read(file)
        except UserError as error:
            reason = str(error).removeprefix(f"{file}:").strip().rstrip(".")
            yield Finding(file, reason, "No stage runs.", "")


def _written() -> Iterator[Path]:
    """Folders that stages and DVC write to."""
    yield from (Path(), Path(tempfile.gettempdir()), cache_folder())


def disk() -> Iterator[Finding]:
    """Free space where stages write."""
    seen = set()
    for folder in _written():
        if not folder.exists() or folder.stat().st_dev in seen:
            continue
        seen.add(folder.stat().st_dev)
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        meaning = "Stages need space for checkpoints and results."
        remedy = "Free some: `edm2 clean` and `dvc gc --workspace` say what is not needed any more."
        if free < MIN_FREE_BYTES:
            problem = f"its disk is nearly full: {free // 2**20} MiB are free"
            yield Finding(folder.resolve(), problem, meaning, remedy)
        if status.f_files and status.f_favail < MIN_FREE_FILES:
            problem = f"its disk has room for only {status.f_favail} more files"
            yield Finding(folder.resolve(), problem, meaning, remedy)
