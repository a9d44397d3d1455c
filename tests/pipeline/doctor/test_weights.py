"""The cache of weights: rests of downloads, and files that are not what they were."""

import hashlib
import os

import pytest

from edm2.features.inception import INCEPTION_WEIGHTS
from edm2.pipeline.doctor.weights import unfinished_downloads, weights

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def cache(root, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", str(root / "cache"))
    (root / "cache").mkdir()
    return root / "cache"


def test_a_file_that_differs_from_its_first_use_is_named(cache):
    (cache / "x.pth").write_bytes(b"weights")
    (cache / "x.pth.sha256").write_text(f"{DIGEST}  x.pth\n")
    assert not list(weights())
    (cache / "x.pth").write_bytes(b"weight")
    (finding,) = weights()
    assert finding.place == cache / "x.pth"
    assert finding.repair is None


def test_a_file_that_differs_from_what_was_published_is_named(cache):
    (cache / INCEPTION_WEIGHTS.file).write_bytes(b"cut")
    (finding,) = weights()
    assert INCEPTION_WEIGHTS.url in finding.problem


def test_the_rest_of_a_download_is_removed(cache):
    left = cache / ".x.pth.00000000-1-0123abcd.partial"  # of another machine
    left.touch()
    assert not list(unfinished_downloads())
    os.utime(left, (1e9, 1e9))
    (finding,) = unfinished_downloads()
    finding.repair()
    assert not left.exists()


def test_without_a_cache_there_is_nothing_to_look_at(cache):
    cache.rmdir()
    assert not [*unfinished_downloads(), *weights()]
