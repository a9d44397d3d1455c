"""The end of a run waits for its process no longer than it should; the process is a short script here."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edm2.runtime.delivery import courier
from edm2.runtime.delivery.courier import MARK, Courier
from edm2.runtime.delivery.outbox import Outbox, Receipt


@pytest.fixture
def outbox(root: Path) -> Outbox:
    outbox = Outbox(root)
    outbox.open({})
    outbox.add_status("FINISHED")
    return outbox


def start(outbox: Outbox, monkeypatch: pytest.MonkeyPatch, code: str) -> Courier:
    """A courier whose process runs `code` and waits until its stdin ends."""
    code = f"import sys, time\ndef tell(text): print('{MARK}' + text, flush=True)\n{code}"
    popen = subprocess.Popen

    def run_code(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return popen([sys.executable, "-S", "-c", code], **options)

    monkeypatch.setattr(courier.subprocess, "Popen", run_code)
    return Courier(outbox, "http://example.org")


def wait_for_line(this: Courier) -> None:
    while this.heard is None:
        time.sleep(0.01)


def test_the_end_waits_for_the_last_values(outbox: Outbox, monkeypatch, capsys) -> None:
    outbox.receipt = Receipt(values=outbox.size, files=outbox.size)
    path = outbox.folder / "delivered.json"
    content = path.read_text()
    path.unlink()
    code = f"""
sys.stdin.read()
tell("note a line for the user")
open({str(path)!r}, "w").write({content!r})
"""
    start(outbox, monkeypatch, code).close()
    assert capsys.readouterr().err == "a line for the user\n"


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("SECONDS_OF_FLUSH", "while True: tell('alive'); time.sleep(0.01)"),
        ("SECONDS_OF_SILENCE", "tell('idle'); time.sleep(60)"),
        ("SECONDS_AFTER_FAILURE", "tell('failed it is down'); time.sleep(60)"),
    ],
)
def test_the_end_does_not_wait_for_a_silent_store(
    outbox: Outbox, monkeypatch, capsys, limit: str, code: str
) -> None:
    for name in ("SECONDS_OF_FLUSH", "SECONDS_OF_SILENCE"):
        monkeypatch.setattr(courier, name, 0.1 if name == limit else 60.0)
    monkeypatch.setattr(courier, "SECONDS_AFTER_FAILURE", 0.1)
    this = start(outbox, monkeypatch, code)
    wait_for_line(this)
    this.close()
    assert this.process is not None
    assert this.process.returncode == -9
    error = capsys.readouterr().err
    assert "edm2 track sync" in error
    assert ("it is down" in error) == (limit == "SECONDS_AFTER_FAILURE")


@pytest.mark.parametrize(("line", "limit"), [("ready", 0.5), ("idle", 2.0)])
def test_a_store_that_was_silent_before_the_end_gets_less_time(
    outbox: Outbox, monkeypatch, line: str, limit: float
) -> None:
    this = start(outbox, monkeypatch, f"tell('{line}')")
    this.listener.join()
    assert this.heard is not None
    assert this._limit(this.heard + 60) == this.heard + 60 + limit


def test_a_process_that_only_starts_is_left_to_deliver(outbox: Outbox, monkeypatch, capsys) -> None:
    monkeypatch.setattr(courier, "SECONDS_OF_START", 0.1)
    this = start(outbox, monkeypatch, "sys.stdin.read(); time.sleep(0.3); sys.exit(7)")
    this.close()
    note = capsys.readouterr().err
    assert "background" in note
    assert "warning" not in note
    assert this.process is not None
    assert this.process.wait() == 7


def test_a_process_that_sends_a_model_is_left_to_deliver(
    outbox: Outbox, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(courier, "SECONDS_OF_START", 0.1)
    code = "tell('upload'); tell('alive'); sys.stdin.read(); time.sleep(0.3); sys.exit(7)"
    this = start(outbox, monkeypatch, code)
    wait_for_line(this)
    this.close()
    note = capsys.readouterr().err
    assert "background" in note
    assert "warning" not in note
    assert this.process is not None
    assert this.process.wait() == 7


def test_failures_are_said_once(outbox: Outbox, monkeypatch, capsys) -> None:
    code = "for _ in range(3): tell('failed it is down')"
    this = start(outbox, monkeypatch, code)
    assert this.process is not None
    this.process.wait()
    this.close()
    assert capsys.readouterr().err.count("it is down") == 1


def test_a_process_that_falls_is_said(outbox: Outbox, monkeypatch, capsys) -> None:
    this = start(outbox, monkeypatch, "sys.exit(7)")
    assert this.process is not None
    this.process.wait()
    this.close()
    assert "status 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("store", "advised"), [(".mlflow", True), ("sqlite:///my.db", True), ("http://host", False)]
)
def test_a_run_goes_on_without_a_process(outbox, store, advised, monkeypatch, capsys) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(courier.subprocess, "Popen", fail)
    Courier(outbox, store).close()
    error = capsys.readouterr().err
    assert "no memory" in error
    assert "edm2 track sync" in error
    assert ("edm2 doctor" in error) == advised
