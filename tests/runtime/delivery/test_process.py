"""The process that delivers what a run logs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_rows import losses, query
from tiny import ROOT

from edm2.runtime.delivery.outbox import Outbox

pytestmark = pytest.mark.slow

STAGE = """
import os, signal, sys, time
from pathlib import Path
from edm2.params import load
from edm2.runtime.state import open_state
from edm2.runtime.tracking import RunDescription, open_run

describe = lambda: RunDescription({}, {})
with open_state("s", "f") as state, open_run("s", load(sys.argv[1]), state, describe) as run:
    run.log(4, {"loss": 0.5})
    exec(sys.argv[2])
"""


def start_stage(root: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STAGE, str(ROOT / "params.yaml"), code],
        cwd=root,
        env={**os.environ, "DVC_ROOT": str(root), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_a_process_delivers_even_when_its_run_is_killed(tmp_path: Path) -> None:
    done = start_stage(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    store = tmp_path / ".mlflow/mlflow.db"
    deadline = time.monotonic() + 60
    while Outbox(tmp_path / ".state/s/f").receipt.status != "KILLED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert losses(store) == [(4, 0.5)]
    assert query(store, "SELECT status FROM runs") == [("KILLED",)]


def test_a_server_that_never_answers_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = start_stage(tmp_path, "pass", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert f"MLflow logs to {uri}" in done.stderr
    assert "edm2 track sync" in done.stderr
    assert Outbox(tmp_path / ".state/s/f").is_pending
