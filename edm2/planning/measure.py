"""Seconds of the stages' computations on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from edm2.planning.workloads import Workload

MIN_SECONDS, MIN_RUNS = 0.5, 3  # of a measurement
START = "import edm2.pipeline.sweep_evaluation, edm2.pipeline.vae_training"  # most of what stages import
DELIVERY = "import mlflow.store.tracking.sqlalchemy_store"  # the end of a short stage waits for it


def seconds_per_image(
    workload: Workload, device: torch.device, clock: Callable[[], float]
) -> float:
    """The median over some runs of the seconds that a workload takes for one image on one rank.

    Trainings run eagerly even with `runtime.compile`, whose compilation would take minutes.

    Args:
        clock: `time.perf_counter`, or `time.process_time` on a machine that does other work.
    """
    if workload.build is None:
        return 0.0
    run, seconds = workload.build(device), list[float]()

    def timed_run() -> float:
        start = clock()
        run(workload.passes)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    timed_run()
    while len(seconds) < MIN_RUNS or sum(seconds) < MIN_SECONDS:
        seconds.append(timed_run())
    return sorted(seconds)[len(seconds) // 2] / (workload.images * workload.passes)


def seconds_to_start(clock: Callable[[], float], tracks: bool) -> float:
    """Seconds until a process has imported what a stage needs, and MLflow if it delivers there."""
    start = time.perf_counter()
    command = [sys.executable, "-c", f"{START}; {DELIVERY}" if tracks else START]
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C would be its traceback
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if clock is time.process_time:
        return usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start
