"""Signals to a process, and the output that it has buffered."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edm2.runtime import interruption

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


SECOND_SIGNAL = """
interruption.SECONDS_OF_ONE_SIGNAL = 0.0
print("a note")
{0}:
    os.kill(os.getpid(), signal.{1})
    os.kill(os.getpid(), signal.{1})
    print("not reached")
"""


@pytest.mark.parametrize(("second", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    "block",
    [
        "with interruption.signals()",
        "interruption.raise_at_signals()\ntry: os.kill(os.getpid(), signal.SIGINT)\nfinally",
    ],
    ids=["collected", "raised"],
)
def test_a_second_signal_stops_at_once_and_writes_buffered_output(
    block: str, second: str, status: int
) -> None:
    """torchrun sends SIGTERM to its processes after a second Ctrl-C."""
    result = run_code(SECOND_SIGNAL.format(block, second))
    assert (result.returncode, result.stdout) == (status, "a note\n")


def test_a_warning_and_the_end_of_the_time_are_one_request_to_stop(monkeypatch) -> None:
    monkeypatch.setattr(interruption, "SECONDS_OF_ONE_SIGNAL", 0.0)
    monkeypatch.setattr(interruption, "exit_at_once", lambda status: pytest.fail(str(status)))
    usr1, term = signal.SIGUSR1, signal.SIGTERM
    assert collected(usr1, usr1, term, usr1) == [usr1]


def collected(*signums: int, error: Exception | None = None) -> list[int]:
    """What is in the list if these signals come, and then the error."""
    with contextlib.suppress(interruption.Interrupted), interruption.signals() as received:
        for signum in signums:
            os.kill(os.getpid(), signum)
        if error is not None:
            raise error
    return received


def test_a_collected_signal_interrupts_after_the_block_unless_an_error_does() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(interruption.Interrupted) as end, interruption.signals():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert end.value.status == 138
    with pytest.raises(KeyError):
        collected(signal.SIGUSR1, error=KeyError())
    assert signal.getsignal(signal.SIGUSR1) == before


def test_exit_at_once_ignores_a_closed_pipe() -> None:
    result = run_code("print('a note'); os.close(1); interruption.exit_at_once(7)")
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
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
