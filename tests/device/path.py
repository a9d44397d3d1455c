"""Paths: what runs on a device, as a few steps each, and the record of running one."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from device.fake_cuda import Recorder, fake_cuda

# a path does something and yields what that was, again and again
Run = Callable[[Recorder], Iterator[str]]


@dataclass(frozen=True)
class Path:
    """
    Attributes:
        run: yields the names of its steps.
        syncs: how often the host may wait for the device in a step, by its name. Steps that are
            not here are rare.
    """

    run: Run
    syncs: dict[str, int]


@dataclass
class Step:
    """What a step asked the device for; see `Recorder`."""

    name: str
    syncs: Counter[str]
    copies: Counter[str]
    launches: Counter[str]
    operations: Counter[str]


@dataclass
class Record:
    """The steps of a path; `error` is the traceback of its failure."""

    steps: list[Step] = field(default_factory=list)
    error: str | None = None

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def as_dict(self) -> dict[str, Any]:
        return {"steps": [vars(step) for step in self.steps], "error": self.error}

    @staticmethod
    def of(tree: dict[str, Any]) -> "Record":
        """From what `as_dict` returned."""
        names = ("syncs", "copies", "launches", "operations")
        steps = [
            Step(step["name"], *(Counter(step[name]) for name in names)) for step in tree["steps"]
        ]
        return Record(steps, tree["error"])


PATHS: dict[str, Path] = {}


def path(name: str, **syncs: int) -> Callable[[Run], Run]:
    """Register a path; in the names of steps _ stands for a space."""

    def register(run: Run) -> Run:
        assert name not in PATHS, name
        PATHS[name] = Path(run, {step.replace("_", " "): count for step, count in syncs.items()})
        return run

    return register


def record(run: Run) -> Record:
    """Run a path on fake tensors."""
    result = Record()
    try:
        with fake_cuda() as recorder:
            for name in run(recorder):
                counts = recorder.syncs, recorder.copies, recorder.launches, recorder.operations
                result.steps.append(Step(name, *counts))
                recorder.clear()
    except Exception:
        result.error = traceback.format_exc(limit=-12)
    return result
