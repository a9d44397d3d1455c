"""Errors of the machine before a stage's `main` runs."""

import os
import subprocess
import sys

import pytest
from tiny import ROOT

START = """
import errno, os, runpy, sys

def refuse(event, args):
    if event == "open" and "{file}" in str(args[0]):
        raise {error}

sys.argv = ["-m"]  # as of `python -m`, while it looks for the module
sys.addaudithook(refuse)
runpy.run_module("stages.report", run_name="__main__")
"""


def start(file, error, **variables):
    return subprocess.run(
        [sys.executable, "-c", START.format(file=file, error=error)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("file", ["edm2/params", "edm2/pipeline", "pydantic"])
@pytest.mark.parametrize("kind", ["EMFILE", "ENOSPC"])
def test_an_error_of_the_system_is_a_sentence(file, kind):
    error = f"OSError(errno.{kind}, os.strerror(errno.{kind}), str(args[0]))"
    ended = start(file, error)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert file in ended.stderr
    assert "run the same command again" in ended.stderr


def test_memory_is_an_error_of_the_system():
    ended = start("pydantic", "MemoryError")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "memory" in ended.stderr


def test_other_errors_and_those_that_are_asked_for_have_their_traceback():
    assert "Traceback" in start("pydantic", "ValueError('bug')").stderr
    assert "Traceback" in start("pydantic", "MemoryError", EDM2_TRACEBACK="1").stderr
