"""The training loop: logs, events, checkpoints, signals, resuming."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edm2.params.errors import NotFiniteError
from edm2.params.section import Training
from edm2.runtime.divergence import DivergedError
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import Every, train
from edm2.runtime.metrics import MetricAccumulator
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
    task: Walk | None = None,
    nonfinite_patience: int | None = 12,
    **options: Any,
) -> Walk:
    task = task or Walk()
    train(
        "toy",
        task,
        batches,
        SCHEDULE,
        state,
        Run(Log(state.log), None),
        checkpoint_seconds=checkpoint_seconds,
        nonfinite_patience=nonfinite_patience,
        remedy="Lower toy.lr.",
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
    start(state, task=task, every=[event])
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


def test_a_signal_during_the_last_save_stops_before_what_follows(state: State, monkeypatch) -> None:
    save = State.save

    def signaled(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(*args)

    monkeypatch.setattr(State, "save", signaled)
    with pytest.raises(Interrupted) as stop:
        start(state)
    assert stop.value.status == 143
    assert state.restore()["nimg"] == SCHEDULE.duration_nimg


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
    monkeypatch.setattr("edm2.runtime.interruption.SECONDS_OF_ONE_SIGNAL", 0.0)
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


# Steps that are not finite


class Failing(Walk):
    """A walk whose loss is NaN, or whose gradients are set to zero, after the steps at some times."""

    def __init__(self, nan: range = range(0), zeroed: range = range(0)) -> None:
        super().__init__()
        self.nan, self.zeroed = nan, zeroed

    def step(self, batch: torch.Tensor, nimg: int) -> dict[str, Any]:
        loss = torch.tensor(math.nan if nimg in self.nan else 1.0)
        zeroed = torch.tensor(5 if nimg in self.zeroed else 0)
        metrics = {"train/loss": loss, "train/nonfinite_gradients": zeroed}
        return super().step(batch, nimg) | metrics


LOSS, GRADIENTS = ("train/loss",), ("Gradients", " 5 of their values")


@pytest.mark.parametrize(("kind", "texts"), [("nan", LOSS), ("zeroed", GRADIENTS)])
@pytest.mark.parametrize(("seconds", "stop", "saved"), [(0.0, 28, 16), (1e9, 36, None)])
def test_a_training_ends_when_its_patience_is_exhausted(
    state: State, kind: str, texts: tuple[str, ...], seconds: float, stop: int, saved: int, capsys
) -> None:
    """From 20 images on no step is finite. A checkpoint is due after each step, or only log rows (24,
    36) look; the patience is 12 images. The last checkpoint is from before.
    """
    task = Failing(**{kind: range(20, 41)})
    with pytest.raises(DivergedError) as error:
        start(state, task=task, checkpoint_seconds=seconds)
    assert (error.value.since, error.value.nimg) == (20, stop)
    for text in (*texts, "since 20 images", f"at {stop} images", "Lower toy.lr."):
        assert text in str(error.value)
    assert capsys.readouterr().err.count("since 20 images") == 1
    tree = state.restore()
    assert (tree and tree["nimg"]) == saved


def test_a_training_that_ended_continues_from_before(state: State) -> None:
    with pytest.raises(DivergedError, match="checkpoint-000000000016"):
        start(state, task=Failing(nan=range(20, 41)), checkpoint_seconds=0.0)
    task = start(state, task=Failing())
    assert list(task.steps) == list(range(4, 41, 4))
    assert all(row["train/loss"] == 1 for row in read_log(state.log))


def test_a_few_steps_that_are_not_finite_mark_their_log_row(state: State, capsys) -> None:
    """One of three steps between two rows; no checkpoint is written while it is the latest."""
    saved: list[int] = []
    seen = Every(4, lambda nimg: saved.append(len(state.checkpoints())) or {})
    task = Failing(nan=range(16, 17), zeroed=range(28, 29))
    start(state, task=task, checkpoint_seconds=0.0, every=[seen])
    shares = [row.get("train/nonfinite_steps") for row in read_log(state.log)]
    assert shares == [None, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert [row["train/loss"] for row in read_log(state.log)] == [1, "nan", 1]
    assert "since 16 images: train/loss" in capsys.readouterr().err
    assert state.restore()["nimg"] == 40


def test_no_checkpoint_is_written_while_steps_are_not_finite(state: State) -> None:
    task = Failing(nan=range(16, 23))
    batches = with_action(16, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        start(state, batches, checkpoint_seconds=0.0, task=task)  # stops at 20
    assert state.restore()["nimg"] == 12


def test_without_patience_only_the_state_ends_a_training(state: State) -> None:
    task = Failing(nan=range(20, 41))
    start(state, task=task, nonfinite_patience=None)
    assert state.restore()["nimg"] == 40
    assert read_log(state.log)[-1]["train/nonfinite_steps"] == 1


def test_a_state_that_is_not_finite_is_never_saved(state: State) -> None:
    task = Failing()
    task.total += math.inf
    with pytest.raises(DivergedError, match="at 40 images. Not finite: total"):
        start(state, task=task, nonfinite_patience=None)
    assert not state.checkpoints()


def test_a_training_must_not_end_on_a_loss_that_is_not_finite(state: State) -> None:
    """Nor with no finite step at all, however long the patience; zeroed gradients at times may be."""
    with pytest.raises(DivergedError) as error:
        start(state, task=Failing(nan=range(40, 41)), nonfinite_patience=1000)
    assert error.value.since == error.value.nimg == 40
    start(state, task=Failing(zeroed=range(36, 41)), nonfinite_patience=1000)


def test_zeroed_gradients_in_every_step_of_a_training_end_it(state: State) -> None:
    with pytest.raises(DivergedError) as error:
        start(state, task=Failing(zeroed=range(41)), nonfinite_patience=1000)
    assert (error.value.since, error.value.nimg) == (4, 40)


def test_an_action_that_needs_finite_values_ends_the_training(state: State) -> None:
    def evaluate(nimg: int) -> dict[str, float]:
        raise NotFiniteError("images: 3 values.")

    with pytest.raises(DivergedError, match="at 16 images. images: 3 values. Lower toy.lr."):
        start(state, every=[Every(16, evaluate)])
