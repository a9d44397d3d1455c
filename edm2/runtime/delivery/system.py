"""Utilization and memory of the machine on which a run logs, as MLflow samples them (`system/...`)."""

import time
from contextlib import suppress
from typing import Any

SECONDS_BETWEEN = 10.0
MAX_PART = 0.01  # of the time that has passed, between two samples: a day has some 500 of them


class SystemMetrics:
    """MLflow's monitors of the processors, the memory and the GPUs.

    The process that delivers a run takes the samples, so that the run itself spends no time on them.

    Raises:
        ImportError: MLflow or psutil is not installed.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        self.monitors: list[Any] = [CPUMonitor()]
        with suppress(
            ImportError, RuntimeError
        ):  # nvidia-ml-py is not installed, or there is no driver
            self.monitors.append(GPUMonitor())
        self.begin = time.monotonic()
        self.count = 0
        self._collect()  # the load of processors is that since the sample before

    @property
    def due(self) -> float:
        """The seconds until the next sample: more and more of them, so that the number of rows is bounded."""
        now = time.monotonic()
        if self.count == 0:
            return self.begin + SECONDS_BETWEEN - now
        return self.last + max(SECONDS_BETWEEN, MAX_PART * (now - self.begin)) - now

    def sample(self) -> dict[str, float]:
        """The metrics now."""
        self.last = time.monotonic()
        self.count += 1
        return {f"system/{name}": value for name, value in self._collect().items()}

    def _collect(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return values
