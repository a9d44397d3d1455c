"""Whatever a publisher's server sends, a download gives the right file, or a sentence and nothing else."""

import errno
import os

import pytest
from campaign import Tally
from downloads import CONTENT, KEY, files, refused, try_download
from tracking_server import FAULTS, content, serving

from edm2.features import weights

pytestmark = [pytest.mark.faults, pytest.mark.slow]


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
