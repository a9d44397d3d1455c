"""What is logged to a store of MLflow in tests, and what is read from one without MLflow."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

VALUES = {"vae": {"losses": {"kl": 0.1}}, "diffusion.size": None}
DATASET = {
    "name": "digits train",
    "digest": "8e134057e2384552",
    "source_type": "local",
    "source": '{"uri": "data/images"}',
    "schema": '{"mlflow_tensorspec": {"features": []}}',
    "profile": '{"images": 1528}',
    "context": "training",
}


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows of a store, read without MLflow; works for any path."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(path.read_bytes())
        return connection.execute(statement).fetchall()


def losses(path: Path) -> list[tuple[int, float]]:
    return query(path, "SELECT step, value FROM metrics WHERE key = 'loss' ORDER BY step")
