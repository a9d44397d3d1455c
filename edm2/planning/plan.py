"""The plan: what each stage costs, and all of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edm2.params import Params
from edm2.params.replicates import Replicate
from edm2.planning.cost import Cost, cost_of
from edm2.planning.dataset import DatasetSize
from edm2.planning.measure import seconds_per_image, seconds_to_start
from edm2.planning.stages import Stage, stages_of
from edm2.planning.workloads import Workload
from edm2.runtime.precision import with_precision

HOUR = 3600
COLUMNS = ("flops", "disk_bytes", "gpu_hours", "seconds", "past_seconds")  # that are summed


@dataclass(frozen=True)
class Device:
    """What is known of a device.

    Attributes:
        tflops: 10¹² operations per second by precision that are reached: the peak times utilization.
        usable_bytes: memory for tensors.
    """

    tflops: Mapping[str, float] | None
    usable_bytes: float | None


@dataclass(frozen=True)
class Row:
    """The cost of one stage.

    Attributes:
        stage: its name, like fid@G-0.
        group: without the seed, like fid@G.
        training: that it is of; None: the stage runs once.
        images: that it trains on, reads or generates.
        flops: of convolutions and matrix products, over all ranks.
        memory_bytes: peak on one rank; None: it computes nothing that grows.
        disk_bytes: of its results; scratch_bytes: of its checkpoints while it runs.
        gpu_hours: over all ranks; None: no speed was stated.
        seconds: until it ends, from measurements; None: nothing was measured.
        past_seconds: mean of its past runs with these params; None: there are none.
    """

    stage: str
    group: str
    training: Replicate | None
    images: int
    ranks: int
    flops: int
    memory_bytes: int | None
    disk_bytes: int
    scratch_bytes: int
    gpu_hours: float | None
    seconds: float | None
    past_seconds: float | None

    @property
    def hours(self) -> float | None:
        """Until it ends, on all its GPUs, at the stated speed."""
        return None if self.gpu_hours is None else self.gpu_hours / self.ranks


@dataclass(frozen=True)
class Plan:
    """The cost of all stages, and what to know about it."""

    size: DatasetSize
    rows: Sequence[Row]
    warnings: Sequence[str]

    def total(self, column: str) -> float | None:
        """The sum of a column; None unless all of its values are known."""
        return total(self.rows, column)

    def as_json(self) -> dict[str, Any]:
        """The plan as a tree of JSON; the names of its keys have the units."""
        return {
            "dataset": asdict(self.size),
            "stages": [asdict(row) for row in self.rows],
            "total": {column: self.total(column) for column in COLUMNS},
            "warnings": list(self.warnings),
        }


def total(rows: Iterable[Row], column: str) -> float | None:
    """The sum of a column; None unless all of its values are known."""
    values = [getattr(row, column) for row in rows]
    return None if None in values else sum(values)


class Planner:
    """Costs workloads on fake tensors, and times them if asked; each once."""

    def __init__(
        self, params: Params, device: Device, clock: Callable[[], float] | None = None
    ) -> None:
        """
        Args:
            clock: times workloads on this machine; None: nothing runs.
        """
        # fake modules cannot change their layout, which takes no memory anyway
        if params.runtime.precision == "auto":
            params = with_precision(params, "bf16")  # which it is on GPUs
        runtime = params.runtime.model_copy(update={"channels_last": False})
        self.fake_params = params.model_copy(update={"runtime": runtime})
        self.params, self.device, self.clock = params, device, clock
        self._costs: dict[int, Cost] = {}
        self._workloads: list[Workload] = []  # keeps their ids

    def plan(self, size: DatasetSize, past_seconds: Mapping[str, float]) -> Plan:
        """
        Args:
            past_seconds: of past runs with these params, by stage, like fid@G.
        """
        stages = list(stages_of(self.fake_params, size))
        seconds = self._seconds(size) if self.clock is not None else [None] * len(stages)
        rows = [
            self._row(stage, time, past_seconds.get(stage.group))
            for stage, time in zip(stages, seconds, strict=True)
        ]
        warnings = [warning for stage in stages for warning in self._warnings(stage)]
        return Plan(size, rows, list(dict.fromkeys(warnings)))  # once for all seeds

    def _row(self, stage: Stage, seconds: float | None, past_seconds: float | None) -> Row:
        costs = [(part, self._cost(part.workload)) for part in stage.parts if part.images]
        flops = [
            (part.workload.precision, self._flops(part.workload) * part.images) for part, _ in costs
        ]
        rates = self.device.tflops
        hours = (
            None
            if rates is None
            else sum(count / (rates[precision] * 1e12) / HOUR for precision, count in flops)
        )
        known = [cost for _, cost in costs if cost is not None]
        # all networks of a stage stay in memory
        resting = sum(cost.resting_bytes for cost in known)
        peaks = [resting + cost.peak_bytes - cost.resting_bytes for cost in known]
        return Row(
            stage.name,
            stage.group,
            stage.training,
            stage.images,
            stage.ranks,
            sum(count for _, count in flops),
            max(peaks, default=None),
            stage.disk_bytes,
            stage.scratch_bytes,
            hours,
            seconds,
            past_seconds,
        )

    def _cost(self, workload: Workload) -> Cost | None:
        """The cost of a step; of several microbatches, of two: the others need no more memory."""
        if workload.build is None:
            return None
        if id(workload) not in self._costs:
            self._workloads.append(workload)
            cost = cost_of(workload.build, min(2, workload.passes))
            elsewhere = cost.resting_bytes - cost.resting_bytes // workload.shards
            self._costs[id(workload)] = Cost(
                cost.flops, cost.peak_bytes - elsewhere, cost.resting_bytes - elsewhere
            )
        return self._costs[id(workload)]

    def _flops(self, workload: Workload) -> int:
        """Of one image."""
        cost = self._cost(workload)
        if cost is None:
            return workload.flops
        return cost.flops // (workload.images * min(2, workload.passes))

    def _seconds(self, size: DatasetSize) -> list[float]:
        """Seconds of each stage on this machine, with as many ranks of its kind as params start."""
        from edm2.runtime.device import pick_device

        assert self.clock is not None
        device = pick_device(self.params.runtime)
        start = seconds_to_start(self.clock, self.params.tracking.mlflow)
        measured: dict[int, float] = {}
        totals, kept = [], []
        for stage in stages_of(self.params, size):
            total = start
            for part in stage.parts:
                key = id(part.workload)
                if part.images and key not in measured:
                    kept.append(part.workload)
                    measured[key] = seconds_per_image(part.workload, device, self.clock)
                total += part.images * measured.get(key, 0.0) / stage.ranks
            totals.append(total)
        return totals

    def _warnings(self, stage: Stage) -> Iterator[str]:
        """About computations that need more memory than the device has."""
        usable = self.device.usable_bytes
        for part in stage.parts:
            cost = self._cost(part.workload) if part.images else None
            if usable is None or cost is None or cost.peak_bytes <= usable:
                continue
            yield (
                f"{stage.group}: {part.name} needs {cost.peak_bytes / 2**30:.1f} GiB of "
                f"{usable / 2**30:.1f} GiB on each device. {self._remedy(part.workload, usable)}"
            )

    def _remedy(self, workload: Workload, usable: float) -> str:
        if workload.resized is None:
            return "Take a device with more memory."
        images = self._images_that_fit(workload, usable)
        if images is None:
            return f"Not even {workload.key}: 1 fits: take a device with more memory."
        return f"Set {workload.key} to {images}."

    def _images_that_fit(self, workload: Workload, usable: float) -> int | None:
        """The largest divisor of a rank's images whose forward pass fits, as memory grows linearly."""
        assert workload.resized is not None
        cost, quarter = self._cost(workload), max(1, workload.images // 4)
        few = max(n for n in range(1, quarter + 1) if workload.images % n == 0)
        assert cost is not None
        if few == workload.images:
            return None
        less = self._cost(workload.resized(few))
        assert less is not None
        slope = (cost.peak_bytes - less.peak_bytes) / (workload.images - few)
        largest = math.floor(few + (usable - less.peak_bytes) / slope)
        share = workload.images * workload.passes
        return max((n for n in range(1, min(largest, share) + 1) if share % n == 0), default=None)
