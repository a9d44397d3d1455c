"""The Makefile works in folders of any name that make itself can be in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import ROOT

TOOLS = ("python", "dvc", "ruff", "mypy", "lint-imports", "pytest", "mkdocs", "mlflow", "pip")
TOOL = """#!/bin/sh
printf '%s' "${0##*/}"
printf ' [%s]' "$@"
echo
"""


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def make():
    """make(folder, target): run a target with tools that print their arguments."""

    def run(folder: Path, target: str) -> subprocess.CompletedProcess[str]:
        (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
        for file in ("Makefile", "pyproject.toml", "constraints.txt"):
            if not (folder / file).exists():
                shutil.copy(ROOT / file, folder)
        for tool in (*(f".venv/bin/{tool}" for tool in TOOLS), "my python"):
            if not (folder / tool).exists():
                (folder / tool).write_text(TOOL)
            (folder / tool).chmod(0o755)
        return subprocess.run(
            ["make", "--silent", target, "PYTHON=./my python"],
            cwd=folder,
            env={**os.environ, "MAKEFLAGS": ""},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("name", ["a project", 'it\'s "q" $HOME `touch X` ; touch X &'])
def test_targets_run_in_a_folder_of_any_name(make, tmp_path, name):
    folder = tmp_path / name

    def output(target: str) -> str:
        result = make(folder, target)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "my python [-m] [venv] [.venv]" in output("setup")
    assert output("repro") == f"dvc [repro]\nreport: file://{folder}/reports/index.html\n"
    assert "[--backend-store-uri] [sqlite:///.mlflow/mlflow.db]" in output("ui")
    assert "pytest [" in output("test")
    assert "mkdocs [build]" in output("docs")
    assert not list(folder.rglob("X"))


def test_a_failure_without_a_git_repository_says_how_to_make_one(make, tmp_path):
    """As in a folder from a zip file."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/dvc").write_text("#!/bin/sh\nexit 255\n")
    without = make(tmp_path, "repro")
    assert without.returncode == 2
    assert "git init" in without.stderr
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    within = make(tmp_path, "repro")
    assert within.returncode == 2
    assert "git init" not in within.stderr
    assert ".venv/bin/edm2 doctor" in within.stderr
    assert "edm2 doctor" not in without.stderr
