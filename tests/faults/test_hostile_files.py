"""Hostile files: a sentence that names the file, within seconds and a gigabyte of memory; nothing is run."""

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_files import CASES, GIB

from edm2.params import UserError

SECONDS = 60  # for a slow machine; each takes less than 3 s of an idle one
SAMPLE = (  # in `make test`
    "pickle: modules shared exponentially",
    "pickle: a memo of 16 GiB in 5 bytes",
    "pickle: a tensor of 2⁴⁰ values in 16 bytes",
    "pickle: a named pipe",
    "checkpoint: a call that allocates 16 GiB",
    "safetensors: a negative shape",
    "JSON: a manifest nested 10⁶ deep",
    "tar: a member of negative size",
    "arrays: statistics of 8 TiB in 1 kB",
)


@pytest.fixture
def bounded() -> Iterator[None]:
    """A gigabyte more than the process has, and a limit of time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + GIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, before)


def assert_sentence(read) -> None:
    with pytest.raises(UserError) as error:
        read()
    message = str(error.value)
    assert "hostile" in message or "dataset.json" in message
    assert len(message) < 5000
    assert all(character.isprintable() or character == "\n" for character in message)


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_an_error_that_names_it(tmp_path, request, name):
    read = CASES[name](tmp_path)
    request.getfixturevalue("bounded")
    assert_sentence(read)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_them(tmp_path, request, name):
    read = CASES[name](tmp_path)
    request.getfixturevalue("bounded")
    assert_sentence(read)
