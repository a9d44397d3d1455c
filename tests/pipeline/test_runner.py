"""How a stage ends: its exit status, its status in MLflow, and the output that it has buffered."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import ROOT, TINY, write_params

pytestmark = pytest.mark.slow

PIPELINE = """
stages:
  ending:
    cmd: python ending.py
    outs: [out.txt]
"""
STAGE = """
import os, signal, time

from edm2.params import UserError
from edm2.pipeline.runner import main
from edm2.runtime import tracking


class Courier:  # takes the place of MLflow
    def __init__(self, outbox, store):
        self.outbox = outbox

    def close(self):
        *_, (entry, _) = self.outbox.entries()
        print("MLflow:", entry["status"])


def send(signum):
    os.kill(os.getpid(), signum)
    time.sleep(30)


def run(context):
    '''Print a note, then do what the test says.'''
    print("a note")
    exec(os.environ["ENDING"])


tracking.Courier = Courier
main(run)
"""
COMPLETE = "context.out('out.txt').write_text('x')"


@pytest.fixture
def run_to(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_to(code): run a stage that ends with `code`, with a pipe as its stdout and stderr."""
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "ending.py").write_text(STAGE)
    write_params(tmp_path / "params.yaml", {**TINY, "tracking.mlflow": True})

    def run(code: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, tmp_path / "ending.py"],
            cwd=tmp_path / folder,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "",
                "DVC_ROOT": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "ENDING": code,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize(
    ("code", "status", "lines"),
    [
        ("raise UserError('wrong')", 2, ["MLflow: FAILED", "ending: wrong"]),
        ("open('/nowhere/x')", 2, ["MLflow: FAILED", "ending: /nowhere/x: No such file"]),
        ("send(signal.SIGINT)", 130, ["MLflow: KILLED", "ending: stopped by SIGINT"]),
        ("send(signal.SIGTERM)", 143, ["MLflow: KILLED", "ending: stopped by SIGTERM"]),
        ("send(signal.SIGKILL)", -9, []),
        ("raise ZeroDivisionError", 1, ["MLflow: FAILED", "Traceback"]),
        ("pass", 1, ["MLflow: FAILED", "Traceback"]),  # there is no out.txt to publish
        (COMPLETE, 0, ["MLflow: FINISHED"]),
    ],
    ids=[
        "user error",
        "system error",
        "Ctrl-C",
        "SIGTERM",
        "SIGKILL",
        "error",
        "no results",
        "complete",
    ],
)
def test_output_comes_in_order_and_mlflow_gets_the_status(
    run_to, code: str, status: int, lines: list[str]
) -> None:
    result = run_to(code)
    assert result.returncode == status, result.stdout
    printed = result.stdout.splitlines()
    assert len(printed) >= len(lines) + 1
    for line, start in zip(printed, ["a note", *lines], strict=False):
        assert line.startswith(start), result.stdout


def test_in_another_folder_the_root_is_told(run_to, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    result = run_to(COMPLETE, "docs")
    assert result.returncode == 2
    (line,) = result.stdout.splitlines()
    assert line.startswith("ending: dvc.yaml: ")
    assert f"cd {tmp_path}." in line


def test_a_complete_stage_says_so_and_does_not_log_again(run_to, tmp_path: Path) -> None:
    run_to(COMPLETE)
    (tmp_path / "out.txt").unlink()  # as DVC does before a stage runs
    result = run_to("raise ZeroDivisionError")
    assert result.returncode == 0, result.stdout
    assert "already complete" in result.stdout
    assert "a note" not in result.stdout
    assert "MLflow" not in result.stdout
    assert (tmp_path / "out.txt").read_text() == "x"
