"""The training loop: logs, events, checkpoints, signals, resuming."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edm2.params.section import Training
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import Every, MetricAccumulator, train
from edm2.runtime.state import State, open_state
from edm2.runtime.tracking import Run

SCHEDULE = Training(batch=4, duration_nimg=40, log_nimg=12)


class Walk:
    """Adds up the numbers of its images, so that its state depends on their order."""

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)
        self.steps: dict[int, float] = {}

    def step(self, batch: torch.Tensor, nimg: int) -> dict[str, Any]:
        self.total = self.total / 2 + batch.sum()
        self.steps[nimg] = float(batch[0])
        high = batch >= 14
        return {"image": batch.mean(), "high": (batch[high].sum(), int(high.sum()))}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.steps = state["total"], dict(state["steps"])


def image_numbers(nimg: int) -> Iterator[torch.Tensor]:
    """Batches: the numbers of four images each."""
    while True:
        yield torch.arange(nimg, nimg + 4, dtype=torch.float64)
        nimg += 4


def with_action(at: int, action: Callable[[], object]) -> Callable[[int], Iterator[torch.Tensor]]:
    """Batches; `action` is called while the batch that starts at `at` is read."""

    def batches(nimg: int) -> Iterator[torch.Tensor]:
        for batch in image_numbers(nimg):
            if batch[0] == at:
                action()
            yield batch

    return batches


def fail() -> None:
    raise ConnectionError


@pytest.fixture
def state(root: Path) -> Iterator[State]:
    with open_state("toy", "abc") as state:
        yield state


def start(
    state: State,
    batches: Callable[[int], Iterator[torch.Tensor]] = image_numbers,
    checkpoint_seconds: float = 1e9,
    **options: Any,
) -> Walk:
    task = Walk()
    train(
        "toy",
        task,
        batches,
        SCHEDULE,
        state,
        Run(Log(state.log), None),
        checkpoint_seconds=checkpoint_seconds,
        **options,
    )
    return task


def test_training_uses_every_image_once_and_in_order(state: State) -> None:
    assert start(state).steps == {nimg: nimg - 4 for nimg in range(4, 41, 4)}


def test_log_rows_are_means_since_the_previous_row(state: State) -> None:
    start(state)
    assert read_log(state.log) == [
        {"nimg": 12, "image": 5.5},  # images 0 to 11, none of them high: no mean
        {"nimg": 24, "image": 17.5, "high": 18.5},  # 12 to 23; high: 14 to 23
        {"nimg": 36, "image": 29.5, "high": 29.5},
    ]


def test_events_run_at_multiples_of_their_time_and_are_logged(state: State) -> None:
    calls: list[tuple[str, int]] = []

    def event(name: str) -> Callable[[int], dict[str, float]]:
        def action(nimg: int) -> dict[str, float]:
            calls.append((name, nimg))
            return {name: nimg / 2}

        return action

    start(state, every=[Every(16, event("eval")), Every(20, event("snapshot"))])
    assert calls == [("eval", 16), ("snapshot", 20), ("eval", 32), ("snapshot", 40)]
    assert [row for row in read_log(state.log) if "image" not in row] == [
        {"nimg": 16, "eval": 8.0},
        {"nimg": 20, "snapshot": 10.0},
        {"nimg": 32, "eval": 16.0},
        {"nimg": 40, "snapshot": 20.0},
    ]


def test_an_event_runs_after_the_step_of_its_time(state: State) -> None:
    task = Walk()
    last_steps = []
    event = Every(20, lambda nimg: last_steps.append(max(task.steps)) or {})
    train(
        "toy",
        task,
        image_numbers,
        SCHEDULE,
        state,
        Run(Log(state.log), None),
        checkpoint_seconds=1e9,
        every=[event],
    )
    assert last_steps == [20, 40]


def test_the_end_of_training_is_saved(state: State) -> None:
    start(state)
    assert state.restore()["nimg"] == 40
    assert start(state, with_action(40, fail)).steps[40] == 36  # no batch is read


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 24), (1e9, None)])
def test_checkpoints_are_written_every_checkpoint_seconds(state: State, seconds, expected) -> None:
    with pytest.raises(ConnectionError):
        start(state, with_action(24, fail), seconds)
    tree = state.restore()
    assert (tree["nimg"] if tree else None) == expected


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("at", [0, 16, 20, 36])
def test_resumed_training_equals_an_uninterrupted_one(
    root: Path, at: int, signum: int, status: int
) -> None:
    with open_state("toy", "uninterrupted") as uninterrupted:
        expected = start(uninterrupted)
    with open_state("toy", "interrupted") as state:
        with pytest.raises(Interrupted) as interruption:
            start(state, with_action(at, lambda: os.kill(os.getpid(), signum)))
        assert interruption.value.status == status
        assert state.restore()["nimg"] == at + 4  # after the step of that batch
        task = start(state)
    assert torch.equal(task.total, expected.total)
    assert task.steps == expected.steps
    assert read_log(state.log) == read_log(uninterrupted.log)


def test_signal_handlers_are_restored(state: State) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConnectionError):
        start(state, with_action(8, fail))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def send_twice(first: int, second: int) -> Callable[[], None]:
    def send() -> None:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)

    return send


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_forwarded_by_a_launcher_is_no_second_ctrl_c(state: State, second: int) -> None:
    with pytest.raises(Interrupted) as interruption:
        start(state, with_action(8, send_twice(signal.SIGINT, second)))
    assert interruption.value.status == 130
    assert state.restore() is not None


def test_a_second_ctrl_c_ends_the_process_at_once(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("edm2.runtime.interruption.SECONDS_OF_ONE_CTRL_C", 0.0)
    with pytest.raises(Ended, match="130"):
        start(state, with_action(8, send_twice(signal.SIGINT, signal.SIGINT)))


def test_after_a_crash_training_resumes_from_the_last_checkpoint(root: Path) -> None:
    with open_state("toy", "uninterrupted") as uninterrupted:
        expected = start(uninterrupted, every=[Every(8, lambda nimg: {"eval": nimg})])
    rollbacks: list[int] = []
    with open_state("toy", "crashed") as state:
        events = [Every(8, lambda nimg: {"eval": nimg}), Every(24, lambda nimg: fail() or {})]
        with pytest.raises(ConnectionError):
            start(state, checkpoint_seconds=0, every=events, rollback=rollbacks.append)
        assert state.restore()["nimg"] == 20
        assert read_log(state.log)[-1]["nimg"] == 24  # logged, but after the last checkpoint
        task = start(state, every=events[:1], rollback=rollbacks.append)
    assert rollbacks == [0, 20]
    assert torch.equal(task.total, expected.total)
    assert read_log(state.log) == read_log(uninterrupted.log)


def test_means_weight_parts_by_their_counts() -> None:
    accumulator = MetricAccumulator()
    accumulator.add({"a": 1.0, "b": (torch.tensor(6.0), 2), "c": (0.0, 0)})
    accumulator.add({"a": torch.tensor(2.0, requires_grad=True), "b": (2.0, torch.tensor(6))})
    other = MetricAccumulator()
    other.load_state_dict(accumulator.state_dict())
    other.add({"a": 6.0})
    assert accumulator.compute_and_reset() == {
        "a": 1.5,
        "b": 1.0,
    }  # (6 + 2) / (2 + 6); no c: its count is 0
    assert accumulator.compute_and_reset() == {}
    assert other.compute_and_reset() == {"a": 3.0, "b": 1.0}
