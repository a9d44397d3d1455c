"""Stores that MLflow cannot use are refused, with one that it can."""

import os
from pathlib import Path

import pytest
from tiny import ROOT

from edm2.params import Params, load
from edm2.params.tracking_checks import sqlite_path, tracking_problems


@pytest.fixture(scope="module")
def default() -> Params:
    return load(ROOT / "params.yaml")


@pytest.fixture
def problems(default: Params, root: Path):
    """problems(uri) of a project with a folder, a text, a pipe, and two databases."""
    (root / "sub").mkdir()
    (root / "text").write_text("text")
    os.mkfifo(root / "pipe")
    (root / "empty.db").touch()
    (root / "full.db").write_bytes(b"SQLite format 3\0...")

    def get(uri: str | None, mlflow: bool = True):
        section = default.tracking.model_copy(update={"uri": uri, "mlflow": mlflow})
        return list(tracking_problems(default.model_copy(update={"tracking": section}), root))

    return get


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("", "null"),
        ("foo://x", "foo"),
        ("./mlruns", "sqlite:///mlruns.db"),
        ("mlruns", "sqlite:///mlruns.db"),
        ("/data/runs/", "sqlite:////data/runs.db"),
        ("file:///data/my%20runs", "sqlite:////data/my runs.db"),
        ("sqlite://my.db", "sqlite:///my.db"),
        ("sqlite:my.db", "sqlite:///my.db"),
        ("sqlite:///", "sqlite:///my.db"),
        ("sqlite:///:memory:", "sqlite:///my.db"),
        ("sqlite:///sub", "sqlite:///sub/my.db"),
        ("sqlite:///my.db?timeout=3", "%3F"),
        ("sqlite:////", "sqlite:////my.db"),
        ("sqlite:///~/my.db", f"{Path.home()}/my.db"),
        ("sqlite:///my%00.db", "NUL"),
        ("sqlite:///text", "sqlite:///my.db"),
        ("sqlite:///text/my.db", "not a folder"),
        ("sqlite:///pipe", "no plain file"),
        ("none", "null, without quotes"),
        ("localhost:5000", "http://localhost:5000"),
        ("10.0.0.1:80/mlflow", "http://10.0.0.1:80/mlflow"),
        (" http://host:80", "Remove the spaces"),
        ("http://", "http://mlflow.example.org:5000"),
        ("http://host:port", "http://mlflow.example.org:5000"),
    ],
)
def test_an_impossible_store_is_refused(problems, uri: str, fix: str) -> None:
    (problem,) = problems(uri)
    assert (problem.key, problem.value) == ("tracking.uri", uri)
    assert "sqlite:///PATH" in problem.allowed
    assert fix in problem.fix


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "http://127.0.0.1:5000",
        "https://user:password@mlflow.example.org/path",
        "sqlite:///my.db",
        "sqlite:///empty.db",
        "sqlite:///full.db",
        f"sqlite:///{'long/' * 200}my.db",
        f"sqlite:///{'long' * 200}.db",
        "sqlite:////data/my%20own.db",
        "postgresql+psycopg2://user@host/runs",
        "databricks",
        "databricks://profile",
    ],
)
def test_other_stores_are_allowed(problems, uri: str | None) -> None:
    assert problems(uri) == []


def test_the_environment_is_checked_if_it_names_the_store(
    problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    (problem,) = problems(None)
    assert problem.key.startswith("MLFLOW_TRACKING_URI")
    assert problem.value == "./mlruns"
    assert problems(None, mlflow=False) == problems("sqlite:///my.db") == []


def test_problems_of_the_store_are_problems_of_the_params(default: Params, root: Path) -> None:
    from edm2.params.checks import wrong_combinations
    from edm2.params.launch import STAGES

    section = default.tracking.model_copy(update={"uri": ""})
    params = default.model_copy(update={"tracking": section})
    problems = wrong_combinations(params, dict.fromkeys(STAGES, 1), root)
    assert "tracking.uri" in [problem.key for problem in problems]


def test_paths_are_relative_to_the_project_and_percent_encoded() -> None:
    root = Path("/project")
    assert sqlite_path("sqlite:///sub/a%20b.db", root) == Path("/project/sub/a b.db")
    assert sqlite_path("sqlite:////data/100%25.db", root) == Path("/data/100%.db")
