"""Weights that others publish: a file of the user's, else the cache, else one download into it."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch

from edm2.params import UserError
from edm2.runtime.files import replacing, sha256
from edm2.runtime.progress import Progress

CHUNK = 2**20  # bytes
PATIENCE = 60  # seconds without an answer


@dataclass(frozen=True)
class Weights:
    """A file as its publisher offers it."""

    file: str
    url: str
    sha256: str | None  # in hexadecimal, or its first digits, as far as the publisher tells
    license: str
    key: str  # of the param that names a copy elsewhere


def cache_folder() -> Path:
    """$EDM2_CACHE, else $XDG_CACHE_HOME/edm2, else ~/.cache/edm2."""
    if own := os.environ.get("EDM2_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "edm2"


def find_weights(weights: Weights, path: Path | None = None) -> Path:
    """Where the file is, whole and unharmed; downloaded into the cache if it is nowhere.

    Args:
        path: a copy of the file, which is used instead of the cache.

    Raises:
        UserError: the file is another one or harmed; there is none, and no network. The message
            has the address and the place to put the file.
    """
    if path is not None:
        _check(path, weights, f"Set {weights.key} to a copy of {weights.url}, or to null.")
        return path
    cached = cache_folder() / weights.file
    try:
        if not cached.exists():  # nor need the cache be writable where it does
            with _alone(cached):
                if not cached.exists():
                    _download(weights, cached)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{weights.url}: cannot be downloaded to {cached} ({error}). Download it on another "
            f"machine and put it there, or set {weights.key} to where it is."
        ) from None
    _check(cached, weights, f"Remove it: it is downloaded again from {weights.url}.")
    return cached


def read_weights(weights: Weights, path: Path | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of the file that `find_weights` finds, by name, and its whole SHA-256.

    Raises:
        UserError: see `find_weights`; or the file is harmed or holds more than tensors, which is
            never run.
    """
    found = find_weights(weights, path)
    try:
        state = torch.load(found, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, as a harmed pickle may ask for anything
        state = None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise UserError(
            f"{found}: expected the tensors of {weights.url}, by name: truncated, or another "
            f"file. Download it again, or set {weights.key} to a copy."
        )
    return state, sha256(found)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, of all that share the cache; the others find its work done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(weights: Weights, target: Path) -> None:
    """Write `target`, which appears only if it is the file that was promised."""
    digest = hashlib.sha256()
    with urlopen(weights.url, timeout=PATIENCE) as answer, replacing(target) as temporary:
        total = int(answer.headers.get("Content-Length", 0))
        progress = Progress(f"download {weights.file}", total, "B")
        with temporary.open("wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.advance(len(chunk))
        progress.close()
        if progress.done < total:
            raise OSError(f"the connection ended after {progress.done} of {total} bytes")
        _compare(
            digest.hexdigest(),
            weights.url,
            weights,
            f"Its publisher has another file there now: set {weights.key} to a copy of the one "
            "that is expected.",
        )


def _check(path: Path, weights: Weights, remedy: str) -> None:
    if weights.sha256 is not None:
        _compare(sha256(path), str(path), weights, remedy)


def _compare(found: str, place: str, weights: Weights, remedy: str) -> None:
    if weights.sha256 is not None and not found.startswith(weights.sha256):
        raise UserError(
            f"{place}: expected {weights.file}, of SHA-256 {weights.sha256}…, and found "
            f"{found[: max(8, len(weights.sha256))]}…: truncated, or another file. {remedy}"
        )
