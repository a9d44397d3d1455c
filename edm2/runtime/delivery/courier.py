"""A run's side of the process that delivers to MLflow: start it, pass on what it says, end it in time."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import edm2
from edm2.params.checks import project_root
from edm2.params.tracking_checks import SQLITE
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.messages import say

MARK = "edm2-delivery "  # of lines that are meant; MLflow may print others
# a store is asked, has answered, or failed; it gets a model; all is delivered; a line for the user
READY, ALIVE, FAILED, UPLOAD = "ready", "alive", "failed", "upload"
IDLE, NOTE = "idle", "note"

SECONDS_OF_FLUSH = 10.0  # how long the end of a run waits for the last values, at most
SECONDS_OF_START = 5.0  # for a process that still imports MLflow, or makes a store
SECONDS_OF_SILENCE = 2.0  # for a store that is asked and does not answer
SECONDS_AFTER_FAILURE = 0.5  # for a store that has been silent or failing before


class Courier:
    """Starts the process for the outbox of a run.

    A process and not a thread: MLflow's import alone would hold Python's lock for two seconds, and a
    process that waits for a store can be ended.
    """

    def __init__(self, outbox: Outbox, store: str) -> None:
        self.outbox, self.store = outbox, store
        self.heard: float | None = None  # when the store was last heard of
        self.failing = self.idle = self.uploading = False
        self.process: subprocess.Popen[str] | None = None
        path = os.pathsep.join(
            [str(Path(edm2.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edm2.runtime.delivery", str(outbox.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=project_root(),
                env={**os.environ, "PYTHONPATH": path, "DVC_ROOT": str(project_root())},
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            self._fail(str(error))
        else:
            self.listener = threading.Thread(target=self._listen, daemon=True)
            self.listener.start()

    def close(self) -> None:
        """Wait a few seconds until everything is delivered, then end the process."""
        if self.process is not None and not self._end(self.process):
            state = "still gets a model" if self.uploading else "is still starting"
            say(
                f"MLflow ({self.store}) {state}; what was logged is delivered in the background, or else by "
                "the next run or `edm2 track sync`."
            )
        elif self.outbox.is_pending:
            is_file = "://" not in self.store or self.store.startswith(SQLITE)
            advice = " `edm2 doctor` says what is wrong with the store." if is_file else ""
            print(
                f"warning: not everything has reached MLflow ({self.store}). The rest is kept in "
                f"{self.outbox.folder}; the next run delivers it, or `edm2 track sync`.{advice}",
                file=sys.stderr,
            )

    def _end(self, process: "subprocess.Popen[str]") -> bool:
        """Whether the process has ended; one that has not begun yet, or sends a model, is left to deliver."""
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended
            process.stdin.write("end\n")
            process.stdin.close()
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() < self._limit(begin):
            time.sleep(0.02)
        if (self.heard is None or self.uploading) and process.poll() is None:
            return False  # on a busy machine, or a cold disk: it ends by itself, after one attempt
        process.kill()
        if (status := process.wait()) not in (0, -signal.SIGKILL):
            self._fail(f"its process ended with status {status}")
        self.listener.join(SECONDS_OF_SILENCE)  # its last lines come before what follows
        return True

    def _limit(self, begin: float) -> float:
        """When to stop waiting: sooner for a process that has not begun or sends a model, and for a silent
        store.
        """
        if self.heard is None or self.uploading:
            return begin + SECONDS_OF_START
        if self.failing:
            return begin + SECONDS_AFTER_FAILURE
        asked = max(begin, self.heard) if self.idle else self.heard
        silent = max(asked + SECONDS_OF_SILENCE, begin + SECONDS_AFTER_FAILURE)
        return min(begin + SECONDS_OF_FLUSH, silent)

    def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith(MARK):
                continue
            kind, _, text = line.removeprefix(MARK).rstrip("\n").partition(" ")
            if kind == NOTE:
                print(text, file=sys.stderr)
                continue
            self.heard, self.idle = time.monotonic(), kind == IDLE
            self.uploading = kind == UPLOAD or (self.uploading and kind not in (IDLE, FAILED))
            if kind == FAILED:
                self._fail(text)
            elif kind == ALIVE:
                self.failing = False

    def _fail(self, reason: str) -> None:
        if not self.failing:
            print(
                f"warning: logging to MLflow failed ({self.store}: {reason}). It is tried again, less "
                "and less often; the local log is complete.",
                file=sys.stderr,
            )
        self.failing = True
