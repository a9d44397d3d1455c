"""A browser and pages in it, for the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.visit import Unavailable, Visit, browser


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    try:
        with browser() as started:
            yield started
    except Unavailable as error:
        pytest.skip(f"no Chromium: {error}")


@pytest.fixture(scope="module")
def report(chromium, finished: Path) -> Visit:
    """The report of the tiny project."""
    return Visit(chromium, finished / "reports/index.html", 1400)
