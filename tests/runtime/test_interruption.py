"""Signals to a process, and the output that it has buffered."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose stdout is a pipe, and therefore buffered."""
    return subprocess.run(
        [sys.executable, "-c", f"import os, signal\nfrom edm2.runtime import interruption\n{code}"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


SECOND_CTRL_C = """
interruption.SECONDS_OF_ONE_CTRL_C = 0.0
print("a note")
{}:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""


@pytest.mark.parametrize(
    "block",
    [
        "with interruption.signals()",
        "interruption.raise_at_signals()\ntry: os.kill(os.getpid(), signal.SIGINT)\nfinally",
    ],
    ids=["collected", "raised"],
)
def test_a_second_ctrl_c_writes_buffered_output(block: str) -> None:
    result = run_code(SECOND_CTRL_C.format(block))
    assert (result.returncode, result.stdout) == (130, "a note\n")


def test_exit_at_once_ignores_a_closed_pipe() -> None:
    result = run_code("print('a note'); os.close(1); interruption.exit_at_once(7)")
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_raise_an_interruption_once(signum: int, status: int) -> None:
    """`except Exception` lets it pass; a launcher's second signal does not interrupt the clean-up."""
    result = run_code(
        f"""
interruption.raise_at_signals()
try:
    try:
        os.kill(os.getpid(), {int(signum)})
    except Exception:
        print("swallowed")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up")
except interruption.Interrupted as error:
    print(error.status)
"""
    )
    assert result.stdout.split() == ["cleaned", "up", str(status)], result.stderr
