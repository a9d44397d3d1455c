"""Published weights: from a path that the user gives, from the cache, or downloaded into the cache."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import urlopen

import torch

from edm2.params import UserError
from edm2.runtime.distributed import ranks
from edm2.runtime.files import replacing, require_sha256, sha256, write_text
from edm2.runtime.limits import shown
from edm2.runtime.progress import Progress
from edm2.runtime.torch_records import read_torch

CHUNK_BYTES = 2**20
DIGITS = 64  # of a SHA-256
RECORD = ".sha256"  # ending of the record of a file's checksum, beside it in the cache
TIMEOUT = 60  # seconds without a response, or with fewer bytes than MIN_BYTES
MIN_BYTES = 60_000


@dataclass(frozen=True)
class PublishedWeights:
    """A weights file as its publisher offers it."""

    file: str  # name in the cache
    url: str
    sha256: str | None  # all 64 digits, or the first ones, in its file name; None: not published
    license: str
    key: str  # the param that can name a local copy

    @property
    def known(self) -> bool:
        """Whether the whole checksum is known before the file is."""
        return self.sha256 is not None and len(self.sha256) == DIGITS


def cache_folder() -> Path:
    """$EDM2_CACHE, else $XDG_CACHE_HOME/edm2, else ~/.cache/edm2."""
    if folder := os.environ.get("EDM2_CACHE"):
        return Path(folder).expanduser()
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "edm2"


def fetch_weights(weights: PublishedWeights, path: Path | None = None) -> tuple[Path, str]:
    """The path and SHA-256 of the file, which is checked; it is downloaded into the cache if need be.

    A checksum of which the publisher states some digits, or none, is recorded beside the file in the cache
    when it is first used, and compared after that. That of a local copy is printed.

    Args:
        path: a local copy of the file; it is used instead of the cache.

    Raises:
        UserError: the file is corrupted or another one; or it cannot be downloaded. The message has
            the URL and the path to put the file at.
    """
    if path is not None:
        remedy = f"Set {weights.key} to a copy of {weights.url}, or to null."
        try:
            digest = _checked_digest(path, weights, remedy)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}). {remedy}"
            ) from None
        if not weights.known and ranks().rank == 0:
            stated = f"begins with {weights.sha256}" if weights.sha256 else "is not published"
            print(f"note: {path}: SHA-256 {digest}; that of {weights.url} {stated}.")
        return path, digest
    cached = cache_folder() / weights.file
    try:
        if not cached.exists():  # a cache that has the file may be read-only
            with _exclusive(cached):
                if not cached.exists():
                    _download(weights, cached)
    except (OSError, HTTPException) as error:
        reason = shown(" ".join(str(error).split()))
        raise UserError(
            f"{weights.url}: cannot be downloaded to {cached} ({reason}). Download it on another "
            f"machine and copy it to that path, or set {weights.key} to its path."
        ) from None
    remedy = f"Remove it: it is downloaded again from {weights.url}."
    digest = _checked_digest(cached, weights, remedy)
    if not weights.known:
        _compare_with_first_use(cached, digest)
    return cached, digest


def _compare_with_first_use(cached: Path, digest: str) -> None:
    """Record the checksum of a file in the cache, or compare it with the record.

    Raises:
        UserError: the file is another one than was used first.
    """
    record = cached.with_name(cached.name + RECORD)
    with suppress(OSError), _exclusive(cached):  # a cache without a record may be read-only
        if not record.exists():
            write_text(record, f"{digest}  {cached.name}\n")
    expected = record.read_text(encoding="utf-8").partition(" ")[0] if record.exists() else digest
    remedy = f"Remove both files if the publisher has replaced it, else only {cached.name}."
    require_sha256(cached, digest, expected, f"as in {record}, from its first use", remedy)


def load_weights(
    weights: PublishedWeights, path: Path | None = None
) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of the file, by name, and its full SHA-256; see `fetch_weights`.

    Raises:
        UserError: see `fetch_weights`; or the file is corrupted or contains anything but tensors,
            which is never executed.
    """
    file, digest = fetch_weights(weights, path)
    try:
        state = read_torch(file)
    except Exception:  # of many classes: a corrupted pickle can request anything
        state = None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise UserError(
            f"{file}: expected the tensors of {weights.url}, by name: truncated, or another file. "
            f"Download it again, or set {weights.key} to a copy."
        )
    return state, digest


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """A lock for `path`, so that only one of the processes that share the cache downloads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(weights: PublishedWeights, target: Path) -> None:
    """Write `target`, which appears only if it is complete and has the expected SHA-256."""
    digest = hashlib.sha256()
    with urlopen(weights.url, timeout=TIMEOUT) as response, replacing(target) as temporary:
        total = response.length or 0  # 0: not stated
        progress = Progress(f"download {weights.file}", total, "B")
        with temporary.open("wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                digest.update(chunk)
                progress.advance(len(chunk))
        progress.close()
        if progress.done < total:
            raise OSError(f"the connection ended after {progress.done} of {total} bytes")
        _check_digest(
            digest.hexdigest(),
            weights.url,
            weights,
            "A proxy has answered, the connection was cut, or the publisher has replaced the file: try "
            f"again, or set {weights.key} to a copy of the expected one.",
        )


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What a server sends.

    Raises:
        OSError: it sends nothing for TIMEOUT seconds, or hardly anything.
    """
    begin, size = time.monotonic(), 0
    while chunk := response.read1(CHUNK_BYTES):
        yield chunk
        size += len(chunk)
        if (now := time.monotonic()) - begin > TIMEOUT:
            if size < MIN_BYTES:
                raise OSError(f"only {size} bytes in {TIMEOUT} s")
            begin, size = now, 0


def _checked_digest(path: Path, weights: PublishedWeights, remedy: str) -> str:
    digest = sha256(path)
    _check_digest(digest, str(path), weights, remedy)
    return digest


def _check_digest(digest: str, location: str, weights: PublishedWeights, remedy: str) -> None:
    if weights.sha256 is not None and not digest.startswith(weights.sha256):
        raise UserError(
            f"{location}: expected {weights.file} with SHA-256 {weights.sha256}…, found "
            f"{digest[: max(8, len(weights.sha256))]}…: truncated, or another file. {remedy}"
        )
