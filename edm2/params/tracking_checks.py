"""Stores in `tracking` and MLFLOW_TRACKING_URI that MLflow cannot use."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edm2.params.errors import Problem
from edm2.params.remedies import NULLS
from edm2.params.tree import Params

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("postgresql", "mysql", "mssql")
SQLITE = "sqlite:///"
HEADER = b"SQLite format 3\0"
HOST = re.compile(r"[\w.-]+:\d{1,5}(?:/\S*)?")  # and port, without http://
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
    if uri.strip().lower() in NULLS:
        return "Set it to null, without quotes."
    if uri == "databricks":
        return None
    if scheme.strip() in ("http", "https") and uri != "".join(uri.split()):
        return "Remove the spaces and line breaks in it."
    if HOST.fullmatch(uri):
        return f"Write http://{uri} or https://{uri}"
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
        return None if _has_host(uri) else f"Write it like {scheme}://USER@HOST:PORT/NAME"
    return f"MLflow knows no stores of {scheme}:."


def _sqlite_fix(uri: str, root: Path) -> str | None:
    if not uri.startswith(SQLITE):
        name = uri.partition(":")[2].lstrip("/") or "my.db"
        return f"Write it with three slashes, four before an absolute path: {SQLITE}{name}"
    if "\0" in unquote(uri):
        return "Remove the character NUL (%00)."
    if uri.startswith(f"{SQLITE}~"):
        return (
            f"Write the home folder in full: {SQLITE}{Path(uri.removeprefix(SQLITE)).expanduser()}"
        )
    if "?" in uri:
        return "Remove what follows `?`, or write %3F if it is part of the name."
    path = sqlite_path(uri, root)
    if path == root or path.name == ":memory:":
        return f"Nothing is kept without a file: {SQLITE}my.db"
    # os.path is false for names that the file system refuses
    if os.path.isdir(path):
        return (
            f"{path} is a folder; name a file: {SQLITE}{Path(uri.removeprefix(SQLITE)) / 'my.db'}"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        return (
            f"{path} is no plain file, so a store cannot be made there; name another: {SQLITE}my.db"
        )
    if os.path.isfile(path) and not _may_be_sqlite(path):
        return f"{path} is another kind of file; name a database, or a new file: {SQLITE}my.db"
    for folder in path.parents:
        if os.path.isfile(folder):
            return f"{folder} is a file, not a folder; name another: {SQLITE}my.db"
    return None


def _may_be_sqlite(path: Path) -> bool:
    """Whether a file is empty or a database of SQLite; true if it cannot be read: opening it reports that."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) in (b"", HEADER)
    except OSError:
        return True


def _server_fix(uri: str) -> str | None:
    if _has_host(uri) and urlsplit(uri).hostname:
        return None
    return "Write host and port: http://mlflow.example.org:5000"


def _has_host(uri: str) -> bool:
    """Whether host and port can be read, or left out: no port that is no number, no lone bracket."""
    try:
        return urlsplit(uri).port != 0
    except ValueError:
        return False


def _schemes_of_plugins() -> list[str]:
    """Schemes that packages add to MLflow."""
    return [point.name for point in entry_points(group="mlflow.tracking_store")]
