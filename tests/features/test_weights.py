"""Weights that others publish: where they are found, and what is said when they are not."""

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

from edm2.features.weights import Weights, cache_folder, find_weights, read_weights
from edm2.params import UserError

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Publisher(ThreadingHTTPServer):
    """A server on this machine; `sent` is the part of `content` that arrives."""

    content = CONTENT
    sent: int | None = None
    asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/net.pth"


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked += 1
        time.sleep(0.05)  # for others to come meanwhile
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("no_proxy", "*")
    server = Publisher(("127.0.0.1", 0), Answer)
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


def record(url: str, sha256: str | None = DIGEST[:8]) -> Weights:
    return Weights("net.pth", url, sha256, "MIT", "vae.backbone_path")


def stored(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
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
        found = find_weights(record(publisher.url, DIGEST[:digits]))
        assert found == cache / "net.pth"
        assert found.read_bytes() == CONTENT
    assert publisher.asked == 1
    assert stored(cache) == ["net.pth"]


def test_without_a_published_checksum_the_file_is_taken_as_it_comes(publisher, tmp_path, cache):
    """Whole, though: see below."""
    unknown = record(publisher.url, None)
    assert find_weights(unknown).read_bytes() == CONTENT
    (cache / "net.pth").write_bytes(b"another")
    assert find_weights(unknown).read_bytes() == b"another"
    publisher.sent = 1000
    (cache / "net.pth").unlink()
    with pytest.raises(UserError, match="the connection ended after 1000"):
        find_weights(unknown)


def test_read_weights_gives_tensors_and_the_whole_checksum(tmp_path: Path):
    torch.save({"a": torch.arange(3)}, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    state, found = read_weights(
        record("http://publisher/net.pth", digest[:8]), tmp_path / "net.pth"
    )
    assert state["a"].tolist() == [0, 1, 2]
    assert found == digest
    with pytest.raises(UserError, match=r"net\.pth: expected net\.pth, of SHA-256 00"):
        read_weights(record("http://publisher/net.pth", "00"), tmp_path / "net.pth")


def stored_as(tree: object) -> bytes:
    stream = BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


NO_TENSORS = [
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
        b"no pickle",
        CONTENT,
        b"\x80\x02h\x05.",
        *map(stored_as, NO_TENSORS),
    ],
)
def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pth: expected the tensors of http://publisher"):
        read_weights(record("http://publisher/net.pth", None), tmp_path / "net.pth")


def test_several_at_once_share_one_download(publisher: Publisher) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_weights(record(publisher.url)), range(4)))
    assert len(set(found)) == 1
    assert publisher.asked == 1


def test_a_cache_that_others_have_filled_need_not_be_writable(publisher, cache: Path) -> None:
    """There is nothing to wait for: a file is whole once it is there."""
    (cache / ".net.pth.lock").mkdir(parents=True)  # as little to be opened as one of another user
    (cache / "net.pth").write_bytes(CONTENT)
    assert find_weights(record(publisher.url)) == cache / "net.pth"
    assert publisher.asked == 0


def test_a_path_goes_before_the_cache(publisher: Publisher, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    assert find_weights(record(publisher.url), tmp_path / "mine.pth") == tmp_path / "mine.pth"
    assert publisher.asked == 0
    assert not cache.exists()


def test_a_path_to_another_file_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as error:
        find_weights(record(publisher.url), tmp_path / "mine.pth")
    other = hashlib.sha256(CONTENT[:-1]).hexdigest()[:8]
    for said in (str(tmp_path / "mine.pth"), DIGEST[:8], other, "vae.backbone_path", publisher.url):
        assert said in str(error.value)


def test_a_harmed_file_in_the_cache_is_named(publisher: Publisher, cache: Path) -> None:
    cache.mkdir()
    (cache / "net.pth").write_bytes(b"harmed")
    with pytest.raises(UserError, match=f"{cache / 'net.pth'}: .*truncated.*Remove it"):
        find_weights(record(publisher.url))
    assert publisher.asked == 0


def test_what_is_not_the_promised_file_never_enters_the_cache(publisher, cache: Path) -> None:
    publisher.content = CONTENT[::-1]
    with pytest.raises(UserError, match=r"another file there now: set vae\.backbone_path"):
        find_weights(record(publisher.url))
    assert stored(cache) == []


def test_a_download_that_breaks_off_leaves_nothing(publisher: Publisher, cache: Path) -> None:
    publisher.sent = 1000
    with pytest.raises(UserError, match=rf"after 1000 of {len(CONTENT)} bytes"):
        find_weights(record(publisher.url))
    assert stored(cache) == []
    publisher.sent = None
    assert find_weights(record(publisher.url)).read_bytes() == CONTENT


def test_without_network_address_and_place_are_told(publisher: Publisher, cache: Path) -> None:
    url = publisher.url.replace(str(publisher.server_port), "1")
    with pytest.raises(UserError) as error:
        find_weights(record(url))
    for said in (url, str(cache / "net.pth"), "another machine", "vae.backbone_path"):
        assert said in str(error.value)


def test_a_cache_that_cannot_be_written_is_told(publisher: Publisher, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be downloaded to .*net\.pth"):
        find_weights(record(publisher.url))
