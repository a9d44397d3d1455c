"""Whatever a publisher's server sends, a download gives the right file, or a sentence and nothing else."""

import errno
import hashlib
import os

import pytest
from campaign import Tally
from tracking_server import FAULTS, content, serving

from edm2.features import weights
from edm2.features.weights import PublishedWeights, fetch_weights
from edm2.params import UserError
from edm2.runtime.failures import _describe

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CONTENT = bytes(range(256)) * 5000
KEY = "vae.backbone_path"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """published(uri): the file as a server offers it."""
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "TIMEOUT", 0.5)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return lambda uri: PublishedWeights("net.pth", f"{uri}/net.pth", digest, "MIT", KEY)


def files(cache):
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


def refused(this):
    """Why a download fails; None: it does not."""
    try:
        fetch_weights(this)
    except UserError as error:
        return _describe(error)
    return None


def try_download(published, cache, name, fault, tally):
    """A download that a fault ends, and one without."""
    tally.tried += 1
    with serving() as server:
        server.fault = fault
        this = published(server.uri)
        status, text = refused(this) or (0, "")
        if status == 2 and text.isprintable() and this.url in text and KEY in text:
            tally.explained += 1
        else:
            tally.failed.append(f"{name}: {status} {text}")
        tally.left_at_once += files(cache)
        server.fault = content(CONTENT)
        path, _ = fetch_weights(this)
        tally.same += path.read_bytes() == CONTENT
        path.unlink()
    tally.left += files(cache)


def test_a_server_that_sends_anything_else(published, tmp_path, record):
    tally = Tally()
    for name, fault in FAULTS.items():
        try_download(published, tmp_path / "cache", name, fault, tally)
    record(tally.row("downloads of weights, all answers"))
    assert (tally.failed, tally.left, tally.left_at_once) == ([], [], [])
    assert tally.tried == tally.same == tally.explained


def test_an_encrypted_connection_to_a_server_without(published):
    with serving() as server:
        this = published(server.uri.replace("http:", "https:"))
        status, text = refused(this)
    assert status == 2
    assert "SSL" in text
    assert KEY in text


def test_a_full_disk(published, tmp_path, monkeypatch):
    def fill(_):
        yield CONTENT[:1000]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weights, "_chunks", fill)
    with serving() as server:
        server.fault = content(CONTENT)
        status, text = refused(published(server.uri))
    assert status == 2
    assert text.startswith(f"{tmp_path / 'cache/net.pth'}: {os.strerror(errno.ENOSPC)}")
    assert files(tmp_path / "cache") == []
