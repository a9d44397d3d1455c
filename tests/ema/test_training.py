"""The averages of a training: updated after each step, in its state, written at their times."""

import copy
import math

import pytest
import torch

from edm2.ema.snapshot import Snapshot, remove_snapshots_after
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import load_tensors
from edm2.ema.tracker import PowerEMA
from edm2.ema.training import AveragedTask, snapshots_every

BATCH, LENGTH = 10, 0.2


class Counting:
    """A training whose only weight is the number of its steps."""

    def __init__(self):
        self.weights = {"weight": torch.zeros(1)}

    def step(self, batch, nimg):
        self.weights["weight"] += 1
        return {"seen": nimg}

    def state_dict(self):
        return {"weights": {"weight": self.weights["weight"].clone()}}

    def load_state_dict(self, state):
        self.weights["weight"].copy_(state["weights"]["weight"])


@pytest.fixture
def task():
    counting = Counting()
    return AveragedTask(counting, PowerEMA(counting.weights, [LENGTH]), BATCH)


def steps(task, first, last, every=None):
    for k in range(first, last + 1):
        assert task.step(None, k * BATCH) == {"seen": k * BATCH}
        if every is not None and k * BATCH % every.nimg == 0:
            assert every.action(k * BATCH) == {}


def expected(count):
    """The average of 1, 2, ..., count by the weights of EDM2 eq. 127; of EMA length 0.2, γ is 1.83."""
    powers = [(k / count) ** (1.8258 + 1) for k in range(count + 1)]
    return sum(k * (powers[k] - powers[k - 1]) for k in range(1, count + 1))


def test_the_average_is_of_the_weights_after_each_step(task):
    steps(task, 1, 20)
    average = task.average.tensors(LENGTH)["weight"].item()
    assert math.isclose(average, expected(20), rel_tol=1e-4)
    assert average < 20


def test_the_average_is_part_of_the_state(task):
    steps(task, 1, 7)
    state = copy.deepcopy(task.state_dict())
    steps(task, 8, 12)
    later = task.state_dict()
    task.load_state_dict(state)
    assert task.task.weights["weight"] == 7
    steps(task, 8, 12)
    assert torch.equal(task.average.tensors(LENGTH)["weight"], later["average"]["0.2"]["weight"])


def test_snapshots_are_written_at_their_times_and_removed_when_training_goes_back(task, tmp_path):
    every = snapshots_every(4 * BATCH, task.average, tmp_path)
    steps(task, 1, 10, every)
    assert SnapshotStore(tmp_path).snapshots == [Snapshot.power(n, LENGTH) for n in (40, 80)]
    stored = load_tensors(tmp_path / Snapshot.power(80, LENGTH).file)["weight"].item()
    assert math.isclose(stored, expected(8), rel_tol=1e-3)  # in 16 bits
    remove_snapshots_after(tmp_path, 79)
    assert [s.nimg for s in SnapshotStore(tmp_path).snapshots] == [40]
