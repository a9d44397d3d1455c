"""Stores in `tracking` and MLFLOW_TRACKING_URI that MLflow cannot use."""

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edm2.params.errors import Problem
from edm2.params.tree import Params

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("postgresql", "mysql", "mssql")
SQLITE = "sqlite:///"
EXPECTED = (
    "null (the project's own store), an http(s):// server, sqlite:///PATH, or another database "
    f"({', '.join(DATABASES)})"
)


def tracking_problems(params: Params, root: Path) -> Iterator[Problem]:
    """What is wrong with the URI of the store that MLflow logs to, from params or the environment."""
    key, uri = "tracking.uri", params.tracking.uri
    if uri is None and params.tracking.mlflow:
        key = f"{VARIABLE} (environment; tracking.uri is null)"
        uri = os.environ.get(VARIABLE) or None
    fix = None if uri is None else _fix(uri, root)
    if fix is not None and key != "tracking.uri":
        fix = f"Unset the variable, or change it. {fix}"
    if fix is not None:
        yield Problem(key, uri, EXPECTED, fix)


def sqlite_path(uri: str, root: Path) -> Path:
    """The file of a store `sqlite:///PATH`; a relative PATH starts at the root of the project."""
    return root / unquote(uri.removeprefix(SQLITE))


def _fix(uri: str, root: Path) -> str | None:
    """What to do about a URI that cannot be used; None if it can be."""
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.lower().partition("+")[0]
    if not uri.strip():
        return "Set it to null."
    if uri == "databricks":
        return None
    if not colon or "/" in scheme or scheme == "file":
        folder = unquote(rest.removeprefix("//") if scheme == "file" else uri).rstrip("/")
        return (
            "MLflow does not write its runs into folders any more; use a database in a file: "
            f"{SQLITE}{folder.removeprefix('./')}.db"
        )
    if scheme == "sqlite":
        return _sqlite_fix(uri, root)
    if scheme in ("http", "https"):
        return _server_fix(uri)
    if scheme in (*DATABASES, "databricks", *_schemes_of_plugins()):
        return None
    return f"MLflow knows no stores of {scheme}:."


def _sqlite_fix(uri: str, root: Path) -> str | None:
    if not uri.startswith(SQLITE):
        name = uri.partition(":")[2].lstrip("/") or "my.db"
        return f"Write it with three slashes, four before an absolute path: {SQLITE}{name}"
    if "?" in uri:
        return "Remove what follows `?`, or write %3F if it is part of the name."
    path = sqlite_path(uri, root)
    if path == root or path.name == ":memory:":
        return f"Nothing is kept without a file: {SQLITE}my.db"
    if os.path.isdir(path):  # false for names that the file system refuses
        return f"{path} is a folder; name a file: {uri.rstrip('/')}/my.db"
    return None


def _server_fix(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        if parts.hostname and parts.port != 0:
            return None
    except ValueError:  # a port that is no number, brackets that do not match
        pass
    return "Write host and port: http://mlflow.example.org:5000"


def _schemes_of_plugins() -> list[str]:
    """Schemes that packages add to MLflow."""
    return [point.name for point in entry_points(group="mlflow.tracking_store")]
