"""Trainings on two ranks save when rank 0 says so, and stop together when a save fails."""

import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fork_ranks import fork_ranks

from edm2.params.section import Training
from edm2.runtime import checkpoint_parts
from edm2.runtime.distributed import ranks
from edm2.runtime.log import Log
from edm2.runtime.loop import train
from edm2.runtime.state import State
from edm2.runtime.tracking import Run

pytestmark = pytest.mark.slow

STEPS = 500


class Slow:
    """Steps of 10 ms; counts them."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, batch: int, nimg: int) -> dict[str, float]:
        time.sleep(0.01)
        self.steps += 1
        return {"loss": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def batches(nimg: int) -> Iterator[int]:
    yield from itertools.count(nimg)


def start(folder: Path, task: Slow, steps: int, seconds: float) -> State:
    state = State(folder / "state")
    state.folder.mkdir(exist_ok=True)
    train(
        "toy",
        task,
        batches,
        Training(batch=1, duration_nimg=steps, log_nimg=STEPS),
        state,
        Run(Log(state.log), None),
        checkpoint_seconds=seconds,
        nonfinite_patience=None,
        remedy="",
    )
    return state


def test_only_the_clock_of_rank_0_counts(tmp_path: Path) -> None:
    """That of rank 1 says at each step that a save is due; there is one at the end."""

    def run() -> list[str]:
        if ranks().rank == 1:
            time.monotonic = itertools.count(0, 10**9).__next__
        return [path.name for path in start(tmp_path, Slow(), 5, 1e6).checkpoints()]

    assert fork_ranks(2, tmp_path, run) == [["checkpoint-000000000005"]] * 2


def test_a_save_that_fails_on_one_rank_ends_the_training_on_all(tmp_path: Path) -> None:
    """Long before the next save is due: at the step at which rank 0 knows of it."""

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run() -> int:
        task = Slow()
        if ranks().rank == 1:
            checkpoint_parts.save_file = fail
        with pytest.raises(OSError, match="No space"):
            start(tmp_path, task, STEPS, 0.1)
        return task.steps

    one, other = fork_ranks(2, tmp_path, run)
    assert one == other < STEPS
