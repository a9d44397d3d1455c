"""Published weights: paths, cache, download, and the errors of each."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import torch

from edm2.features.weights import PublishedWeights, cache_folder, fetch_weights, load_weights
from edm2.params import UserError

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Publisher(ThreadingHTTPServer):
    """A local server; it sends the first `sent` bytes of `content`, None: all."""

    content = CONTENT
    sent: int | None = None
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/net.pth"


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.requests += 1
        time.sleep(0.05)  # so that requests can overlap
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("no_proxy", "*")
    server = Publisher(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def published(url: str, sha256: str | None = DIGEST[:8]) -> PublishedWeights:
    return PublishedWeights("net.pth", url, sha256, "MIT", "vae.backbone_path")


def cached_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_environment_variables_set_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/shared")
    monkeypatch.setenv("EDM2_CACHE", "~/weights")
    assert cache_folder() == Path.home() / "weights"
    monkeypatch.delenv("EDM2_CACHE")
    assert cache_folder() == Path("/var/shared/edm2")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache/edm2"


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_is_downloaded_once(publisher: Publisher, cache: Path, digits: int) -> None:
    for _ in range(2):
        path, digest = fetch_weights(published(publisher.url, DIGEST[:digits]))
        assert (path, digest) == (cache / "net.pth", DIGEST)
        assert path.read_bytes() == CONTENT
    assert publisher.requests == 1
    record = [] if digits == 64 else ["net.pth.sha256"]
    assert cached_files(cache) == ["net.pth", *record]


def test_without_a_published_checksum_the_first_complete_file_is_the_one(publisher, cache):
    unknown = published(publisher.url, None)
    assert fetch_weights(unknown)[0].read_bytes() == CONTENT
    (cache / "net.pth").write_bytes(b"another")
    with pytest.raises(UserError, match=rf"net\.pth: .*{DIGEST[:12]}.*net\.pth\.sha256"):
        fetch_weights(unknown)
    (cache / "net.pth.sha256").unlink()
    assert fetch_weights(unknown)[0].read_bytes() == b"another"
    publisher.sent = 1000
    (cache / "net.pth").unlink()
    with pytest.raises(UserError, match=rf"1000 of {len(CONTENT)} bytes"):
        fetch_weights(unknown)


def test_load_weights_gives_tensors_and_the_full_checksum(tmp_path: Path, capsys):
    torch.save({"a": torch.arange(3)}, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    weights = published("http://publisher/net.pth", digest[:8])
    state, fingerprint = load_weights(weights, tmp_path / "net.pth")
    assert digest in capsys.readouterr().out
    assert state["a"].tolist() == [0, 1, 2]
    assert fingerprint == digest
    with pytest.raises(UserError, match=r"net\.pth: .*SHA-256 00"):
        load_weights(published("http://publisher/net.pth", "00"), tmp_path / "net.pth")


def serialize(tree: object) -> bytes:
    stream = BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


NOT_ONLY_TENSORS = [
    [torch.ones(2)],
    torch.ones(2),
    {"teacher": {"a": torch.ones(2)}},
    {"a": torch.ones(2), "epoch": 3},
    {0: torch.ones(2)},
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        CONTENT,
        b"\x80\x02h\x05.",
        *map(serialize, NOT_ONLY_TENSORS),
    ],
)
def test_files_with_anything_but_tensors_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pth: .*http://publisher.*vae\.backbone_path"):
        load_weights(published("http://publisher/net.pth", None), tmp_path / "net.pth")


def test_concurrent_requests_share_one_download(publisher: Publisher) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch_weights(published(publisher.url))[0], range(4)))
    assert len(set(paths)) == 1
    assert publisher.requests == 1


def test_a_cache_with_the_file_can_be_read_only(publisher, cache: Path) -> None:
    """No lock is needed: a file in the cache is complete."""
    (cache / ".net.pth.lock").mkdir(parents=True)  # cannot be opened, like another user's file
    (cache / "net.pth").write_bytes(CONTENT)
    assert fetch_weights(published(publisher.url)) == (cache / "net.pth", DIGEST)
    assert publisher.requests == 0


def test_a_path_takes_precedence_over_the_cache(
    publisher: Publisher, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy.pth").write_bytes(CONTENT)
    copy = tmp_path / "copy.pth"
    assert fetch_weights(published(publisher.url), copy) == (copy, DIGEST)
    assert publisher.requests == 0
    assert not cache.exists()


def test_a_path_to_another_file_is_named_with_both_checksums(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "copy.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as error:
        fetch_weights(published(publisher.url), tmp_path / "copy.pth")
    other = hashlib.sha256(CONTENT[:-1]).hexdigest()[:8]
    for part in (str(tmp_path / "copy.pth"), DIGEST[:8], other, "vae.backbone_path", publisher.url):
        assert part in str(error.value)


def test_a_corrupted_file_in_the_cache_is_named(publisher: Publisher, cache: Path) -> None:
    cache.mkdir()
    (cache / "net.pth").write_bytes(b"corrupted")
    with pytest.raises(UserError, match=f"{cache / 'net.pth'}: .*Remove it"):
        fetch_weights(published(publisher.url))
    assert publisher.requests == 0


def test_a_download_with_another_checksum_does_not_enter_the_cache(publisher, cache: Path) -> None:
    publisher.content = CONTENT[::-1]
    with pytest.raises(UserError, match=rf"{publisher.url}: .*vae\.backbone_path"):
        fetch_weights(published(publisher.url))
    assert cached_files(cache) == []


def test_an_interrupted_download_leaves_nothing(publisher: Publisher, cache: Path) -> None:
    publisher.sent = 1000
    with pytest.raises(UserError, match=rf"1000 of {len(CONTENT)} bytes"):
        fetch_weights(published(publisher.url))
    assert cached_files(cache) == []
    publisher.sent = None
    assert fetch_weights(published(publisher.url))[0].read_bytes() == CONTENT


def test_a_failed_download_names_url_cache_and_param(publisher: Publisher, cache: Path) -> None:
    url = publisher.url.replace(str(publisher.server_port), "1")
    with pytest.raises(UserError) as error:
        fetch_weights(published(url))
    for part in (url, str(cache / "net.pth"), "vae.backbone_path"):
        assert part in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(publisher: Publisher, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=str(cache / "net.pth")):
        fetch_weights(published(publisher.url))
