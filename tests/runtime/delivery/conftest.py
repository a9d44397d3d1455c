"""Stores of MLflow, copied from an empty one: MLflow takes two seconds to make that."""

from pathlib import Path

import pytest

from edm2.runtime.delivery import sqlite


@pytest.fixture(scope="session")
def empty_store() -> bytes:
    """The file of a new store, made once."""
    return sqlite._empty_store(Path("/project/.mlflow/mlflow.db"))


@pytest.fixture
def new_stores(monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> None:
    """Stores that are made in the test are copies."""
    monkeypatch.setattr(sqlite, "_empty_store", lambda path: empty_store)
