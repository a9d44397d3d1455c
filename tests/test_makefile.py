"""The Makefile works in folders of any name that make itself can be in."""

import os
import shutil
import subprocess

import pytest
from tiny import ROOT

TOOLS = ("python", "dvc", "ruff", "mypy", "lint-imports", "pytest", "mkdocs", "mlflow", "pip")
TOOL = """#!/bin/sh
printf '%s' "${0##*/}"
printf ' [%s]' "$@"
echo
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("name", ["a project", 'it\'s "q" $HOME `touch X` ; touch X &'])
def test_targets_run_in_a_folder_of_any_name(tmp_path, name):
    """With tools that print their arguments."""
    folder = tmp_path / name
    (folder / ".venv/bin").mkdir(parents=True)
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, folder)
    for tool in (*(f".venv/bin/{tool}" for tool in TOOLS), "my python"):
        (folder / tool).write_text(TOOL)
        (folder / tool).chmod(0o755)

    def make(target: str) -> str:
        result = subprocess.run(
            ["make", "--silent", target, "PYTHON=./my python"],
            cwd=folder,
            env={**os.environ, "MAKEFLAGS": ""},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "my python [-m] [venv] [.venv]" in make("setup")
    assert make("repro") == f"dvc [repro]\nreport: file://{folder}/reports/index.html\n"
    assert "[--backend-store-uri] [sqlite:///.mlflow/mlflow.db]" in make("ui")
    assert "pytest [" in make("test")
    assert "mkdocs [build]" in make("docs")
    assert not list(folder.rglob("X"))
