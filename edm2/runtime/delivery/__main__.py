"""The process that delivers the outbox of one run: `python -m edm2.runtime.delivery STATE_FOLDER`.

It ends after a line on its stdin, when its run has ended, or when its run was killed. It says to its
stdout what the courier of the run has to know, in lines that begin with MARK.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from edm2.params.checks import project_root
from edm2.runtime.delivery.courier import ALIVE, FAILED, IDLE, MARK, NOTE, READY, UPLOAD
from edm2.runtime.delivery.deadline import allow, deadline
from edm2.runtime.delivery.deliver import Deliverer, describe
from edm2.runtime.delivery.outbox import Outbox, now, outboxes
from edm2.runtime.delivery.store import import_mlflow
from edm2.runtime.delivery.system import SystemMetrics
from edm2.runtime.interruption import SIGNALS

PARENT = os.getppid()
SECONDS_BETWEEN = 10.0
MAX_SECONDS_BETWEEN = 600.0  # after failures; doubled each time


def main() -> None:
    for signum in (*SIGNALS, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # they are for the run, which then closes stdin
    own = Outbox(Path(sys.argv[1]))
    root = project_root()
    deliverer = Deliverer(root, lambda text: _send(NOTE, text), _allow)
    wait, swept, ended = 0.0, False, False
    system: SystemMetrics | None = None
    while True:
        if not _attempt(deliverer, own):
            wait = min(max(2 * wait, SECONDS_BETWEEN), MAX_SECONDS_BETWEEN)
        else:
            wait = SECONDS_BETWEEN
            if not swept and not ended:
                swept = True
                _sweep(deliverer, root, own)
        if ended:
            return
        system = (
            system or _system_metrics()
        )  # a store has set MLflow's environment before its import
        ended = _wait(wait, own, system)


def _attempt(deliverer: Deliverer, own: Outbox) -> bool:
    """Deliver what there is; whether the store has taken it."""
    try:
        import_mlflow()
        with deadline():
            deliverer.open(own)
            _send(READY)
            for _ in deliverer.deliver(own):
                _send(ALIVE)
                allow()
    except Exception as error:  # whatever MLflow raises
        _send(FAILED, describe(error))
    else:
        _send(IDLE)
        return True
    return False


def _sweep(deliverer: Deliverer, root: Path, own: Outbox) -> None:
    """Deliver what earlier runs left for the same store, which has just answered."""
    tracking = own.description["tracking"]
    for outbox in outboxes(root):
        if outbox.folder == own.folder or outbox.is_running:
            continue
        with suppress(Exception), deadline():
            if outbox.description["tracking"] != tracking:
                continue
            for _ in deliverer.deliver(outbox):
                allow()
                if _has_ended(0):
                    return


def _system_metrics() -> SystemMetrics | None:
    try:
        return SystemMetrics()
    except Exception:  # of psutil or of a driver: a run needs none of it
        return None


def _wait(seconds: float, own: Outbox, system: SystemMetrics | None) -> bool:
    """Wait until the run has ended, at most for `seconds`, and sample the machine meanwhile.

    A run that is over before the first sample is due gets one at its end.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        has_ended = _has_ended(max(0.0, left if system is None else min(left, system.due)))
        if system is not None and (system.due <= 0 or (has_ended and system.count == 0)):
            with suppress(Exception):  # of psutil or of a driver
                own.add_metrics((now() - own.started) // 1000, system.sample())
        if has_ended or time.monotonic() >= end:
            return has_ended


def _has_ended(seconds: float) -> bool:
    """Wait until the run has ended, at most for `seconds`. Whether it has.

    The run's other processes may hold our stdin open when the run was killed.
    """
    return bool(select.select([sys.stdin], [], [], seconds)[0]) or os.getppid() != PARENT


def _send(kind: str, text: str = "") -> None:
    with suppress(OSError):  # the run was killed
        print(f"{MARK}{kind} {' '.join(text.splitlines())}", flush=True)


def _allow(size: int) -> None:
    """Allow the time that a file of this size may take."""
    _send(UPLOAD)
    allow(size)


if __name__ == "__main__":
    main()
