"""When a training saves, and what becomes of saves that are under way, fail, or are killed."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edm2.runtime import checkpoint_parts
from edm2.runtime.checkpointing import Checkpointer, checkpointing
from edm2.runtime.state import State, open_state


@pytest.fixture
def state(root: Path) -> Iterator[State]:
    with open_state("toy", "abc") as state:
        yield state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


class Disk:
    """Writes wait for `go`, and fail with `error`."""

    def __init__(self) -> None:
        self.go, self.error = threading.Event(), None
        self.save_file = checkpoint_parts.save_file

    def __call__(self, *args: Any) -> None:
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        self.save_file(*args)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(checkpoint_parts, "save_file", disk)
    return disk


def tree(nimg: int) -> dict[str, Any]:
    return {"nimg": nimg, "weight": torch.full((4,), float(nimg))}


def end_of_save(checkpointer: Checkpointer, disk: Disk) -> None:
    disk.go.set()
    checkpointer.checkpoints()
    disk.go.clear()


def test_the_interval_counts_from_the_end_of_a_save(state, clock, disk) -> None:
    with checkpointing(state, 10.0) as checkpointer:
        due = []
        for clock[0] in (109.0, 110.0):
            due.append(checkpointer.due())
        checkpointer.save(1, tree(1))  # at 110
        for clock[0] in (111.0, 150.0):  # under way
            due.append(checkpointer.due())
        end_of_save(checkpointer, disk)  # at 150
        for clock[0] in (159.0, 160.0):
            due.append(checkpointer.due())
    assert due == [False, True, False, False, False, True]


def test_the_clocks_of_other_ranks_do_not_count(state, clock, monkeypatch) -> None:
    with checkpointing(state, 10.0) as checkpointer:
        clock[0] = 200.0
        assert checkpointer.due()
        monkeypatch.setenv("RANK", "1")
        assert not checkpointer.due()


def test_a_training_goes_on_while_its_state_of_before_is_written(state, disk) -> None:
    with checkpointing(state, 10.0) as checkpointer:
        saved = tree(1)
        checkpointer.save(1, saved)
        saved["weight"].zero_()
        assert not state.checkpoints()
        disk.go.set()
        checkpointer.wait()
        assert state.restore()["weight"].tolist() == [1, 1, 1, 1]


def test_a_save_begins_when_the_one_before_has_ended(state, disk) -> None:
    with checkpointing(state, 10.0) as checkpointer:
        checkpointer.save(1, tree(1))
        threading.Timer(0.05, disk.go.set).start()
        checkpointer.save(2, tree(2))
        assert state.folder / "checkpoint-000000000001" in state.checkpoints()
    assert [path.name[-1] for path in state.checkpoints()] == ["1", "2"]


def test_a_failed_save_is_due_at_once_and_raised(state, clock, disk) -> None:
    with checkpointing(state, 10.0) as checkpointer:
        checkpointer.save(1, tree(1))
        disk.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end_of_save(checkpointer, disk)
        assert checkpointer.due()
        with pytest.raises(OSError, match="No space"):
            checkpointer.save(2, tree(2))
    assert not state.checkpoints()


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device. Free space"),
        (RuntimeError("gloo: connection closed by peer"), ""),  # of a rank that says why itself
    ],
)
def test_a_failed_save_is_named_if_another_error_ends_the_training(
    state, disk, capsys, error, printed
) -> None:
    disk.error = error

    def train() -> None:
        with checkpointing(state, 10.0) as checkpointer:
            checkpointer.save(1, tree(1))
            disk.go.set()
            raise KeyError

    with pytest.raises(KeyError):
        train()
    assert (printed in capsys.readouterr().err) if printed else not capsys.readouterr().err


def test_with_an_interval_of_0_each_step_waits_for_its_save(state, clock, disk) -> None:
    disk.go.set()
    with checkpointing(state, 0.0) as checkpointer:
        for nimg in (1, 2):
            assert checkpointer.due()
            checkpointer.save(nimg, tree(nimg))
    assert state.restore()["nimg"] == 2
