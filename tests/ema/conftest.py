"""Fixtures for published pickles."""

import pickle
import sys

import pytest
from published_pickles import pickled

from edm2.ema.pickles import read_published


@pytest.fixture
def dumps():
    return pickled


@pytest.fixture
def read(tmp_path, dumps):
    """Write a content, or the bytes of a file, and read it."""

    def write_and_read(content, protocol=pickle.DEFAULT_PROTOCOL):
        path = tmp_path / "network.pkl"
        path.write_bytes(content if isinstance(content, bytes) else dumps(content, protocol))
        published = read_published(path)
        assert not {"torch_utils", "dnnlib"} & sys.modules.keys()
        return published

    return write_and_read
