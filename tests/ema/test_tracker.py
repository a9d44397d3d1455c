"""Averages during training."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edm2.ema import (
    PowerEMA,
    Snapshot,
    SnapshotStore,
    reconstruct,
    sigma_rel_to_gamma,
    write_snapshot,
)

LENGTHS = [0.05, 0.10, 0.2]
BATCH = 32


def weights_of_steps(sigma_rel, steps):
    """Weight of each step's parameters: the integral of the profile over that step, in closed form.

    Π β telescopes: (1 − 1/j)^{γ+1} over j = k+1…n is (k/n)^{γ+1}.
    """
    cumulative = (np.arange(steps + 1) / steps) ** (sigma_rel_to_gamma(sigma_rel) + 1)
    return np.diff(cumulative)


def walk(ema, tensors, steps, seed=0):
    """A random walk of all tensors; its positions [steps, ...] by name."""
    rng = np.random.default_rng(seed)
    walked = {name: [] for name in tensors}
    for step in range(1, steps + 1):
        for name, tensor in tensors.items():
            tensor.data += torch.from_numpy(rng.normal(size=tensor.shape)).to(tensor.dtype)
            walked[name].append(tensor.detach().double().numpy().copy())
        ema.update(step * BATCH, BATCH)
    return {name: np.stack(positions) for name, positions in walked.items()}


@pytest.mark.parametrize("sigma_rel", LENGTHS)
def test_average_of_a_random_walk_is_the_weighted_sum(sigma_rel):
    tensors = {"a": torch.full((3, 2), 50.0), "b": torch.zeros([])}
    ema = PowerEMA(tensors, LENGTHS)
    walked = walk(ema, tensors, 500)
    weights = weights_of_steps(sigma_rel, 500)
    assert weights.sum() == pytest.approx(1)
    for name, positions in walked.items():
        expected = np.einsum("s,s...->...", weights, positions)
        np.testing.assert_allclose(ema.tensors(sigma_rel)[name].numpy(), expected, atol=2e-3)


def test_the_first_update_removes_the_initialization():
    tensors = {"a": torch.full((4,), torch.tensor(1e30))}
    ema = PowerEMA(tensors, LENGTHS)
    tensors["a"].copy_(torch.tensor([1.0, -2.0, 3.0, 0.1]))
    ema.update(BATCH, BATCH)
    for sigma_rel in LENGTHS:
        assert torch.equal(ema.tensors(sigma_rel)["a"], tensors["a"])


def test_16_bit_parameters_are_averaged_in_float32():
    """1 and 1 + 2⁻⁷ in turn: their mean is between two adjacent values of bfloat16."""
    tensors = {"a": torch.ones(1, dtype=torch.bfloat16)}
    ema = PowerEMA(tensors, [0.2])
    for step in range(1, 201):
        tensors["a"].fill_(1 + 2**-7 * (step % 2))
        ema.update(step, 1)
    average = ema.tensors(0.2)["a"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(1 + 2**-8, abs=1e-4)


def test_buffers_are_copied_and_not_averaged():
    module = nn.BatchNorm1d(2)
    ema = PowerEMA(module, [0.1])
    for step in range(1, 5):
        module.running_mean.fill_(step)
        module.num_batches_tracked.fill_(step)
        module.weight.data.fill_(step)
        ema.update(step, 1)
    average = ema.tensors(0.1)
    assert average["running_mean"].tolist() == [4, 4]
    assert average["num_batches_tracked"] == torch.tensor(4)
    assert all(3 < value < 4 for value in average["weight"].tolist())


class Counting(nn.Module):
    """Assigns a new tensor to its buffer in each forward, and has one that is not persistent."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1
        return x * self.weight


def test_buffers_that_forward_reassigns_are_current():
    module = Counting()
    ema = PowerEMA(module, [0.1])
    for step in (1, 2, 3):
        module(torch.ones(2))
        ema.update(step, 1)
    assert ema.tensors(0.1)["calls"] == 3
    ((_, tensors),) = ema.snapshots(3).items()
    assert tensors["calls"] == 3


class Tied(nn.Module):
    """One weight under two names, as of a language model's embedding and output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("build", [Tied, Counting, lambda: nn.BatchNorm1d(2)])
def test_snapshots_and_reconstructions_load_strictly(tmp_path, build, dtype):
    module = build()
    ema = PowerEMA(module, [0.05, 0.1])
    for step in (1, 2, 3, 4):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 1
        ema.update(step, 1)
        for snapshot, tensors in ema.snapshots(step).items():
            write_snapshot(tmp_path, snapshot, tensors, list(ema.buffers), dtype)
    loaded = build()
    loaded.load_state_dict(load_file(tmp_path / Snapshot.power(4, 0.1).file), strict=True)
    for name, parameter in loaded.named_parameters():
        expected = ema.tensors(0.1)[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=2**-10, atol=1e-6)
    ((_, tensors),) = reconstruct(SnapshotStore(tmp_path), [0.08])
    loaded.load_state_dict(tensors, strict=True)


def test_tied_weights_are_averaged_once():
    """Their averages share memory, and checkpoints hold a single one."""
    ema = PowerEMA(Tied(), [0.1])
    average = ema.tensors(0.1)
    assert average["head.weight"] is average["embedding.weight"]
    assert set(ema.state_dict()["0.1"]) == {"embedding.weight", "head.bias"}


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match=r"tensor phase: torch\.complex64"):
        PowerEMA({"phase": torch.ones(2, dtype=torch.complex64)}, [0.1])


def test_averages_do_not_change_the_training():
    """They share no memory with the parameters and have no gradients."""
    module = nn.Linear(3, 2)
    ema = PowerEMA(module, LENGTHS)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in (1, 2, 3):
        ema.update(step, 1)
    ema.tensors(0.05)["weight"].zero_()
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert not any(t.requires_grad for t in ema.tensors(0.05).values())


def test_a_restored_average_continues_to_the_same_bits():
    def start():
        tensors = {"a": torch.zeros(5)}
        return tensors, PowerEMA(tensors, LENGTHS)

    (tensors, ema), (restored_tensors, restored) = start(), start()
    walk(ema, tensors, 20)
    restored.load_state_dict(
        {k: {n: t.clone() for n, t in v.items()} for k, v in ema.state_dict().items()}
    )
    restored_tensors["a"].copy_(tensors["a"])
    for step in (21, 22):
        for source, tracker in ((tensors, ema), (restored_tensors, restored)):
            source["a"] += step
            tracker.update(step * BATCH, BATCH)
    for sigma_rel in LENGTHS:
        assert torch.equal(ema.tensors(sigma_rel)["a"], restored.tensors(sigma_rel)["a"])


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match=r"0\.29"):
        PowerEMA(nn.Linear(2, 2), [0.1, 0.29])
