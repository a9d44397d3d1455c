"""The default params."""

from pathlib import Path

import pytest

from edm2.params import Params, load


@pytest.fixture(scope="session")
def params() -> Params:
    return load(Path(__file__).parents[2] / "params.yaml")
