"""Averages while training."""

import numpy as np
import pytest
import torch
from torch import nn

from edm2.ema import PowerEMA, sigma_rel_to_gamma

LENGTHS = [0.05, 0.10, 0.2]
BATCH = 32


def weights_of_steps(sigma_rel, steps):
    """Weight of each step's parameters: the profile's integral over that step, in closed form.

    Π β telescopes: (1 − 1/j)^{γ+1} over j = k+1…n is (k/n)^{γ+1}.
    """
    cumulative = (np.arange(steps + 1) / steps) ** (sigma_rel_to_gamma(sigma_rel) + 1)
    return np.diff(cumulative)


def walk(ema, tensors, steps, seed=0):
    """A random walk of all tensors; its positions [steps, ...] by name."""
    rng = np.random.default_rng(seed)
    seen = {name: [] for name in tensors}
    for step in range(1, steps + 1):
        for name, tensor in tensors.items():
            tensor.data += torch.from_numpy(rng.normal(size=tensor.shape)).to(tensor.dtype)
            seen[name].append(tensor.detach().double().numpy().copy())
        ema.update(step * BATCH, BATCH)
    return {name: np.stack(positions) for name, positions in seen.items()}


@pytest.mark.parametrize("sigma_rel", LENGTHS)
def test_average_of_a_random_walk_is_the_weighted_sum(sigma_rel):
    tensors = {"a": torch.full((3, 2), 50.0), "b": torch.zeros([])}
    ema = PowerEMA(tensors, LENGTHS)
    seen = walk(ema, tensors, 500)
    weights = weights_of_steps(sigma_rel, 500)
    assert weights.sum() == pytest.approx(1)
    for name, positions in seen.items():
        expected = np.einsum("s,s...->...", weights, positions)
        np.testing.assert_allclose(ema.tensors(sigma_rel)[name].numpy(), expected, atol=2e-3)


def test_the_first_update_forgets_the_initialization():
    tensors = {"a": torch.full((4,), torch.tensor(1e30))}
    ema = PowerEMA(tensors, LENGTHS)
    tensors["a"].copy_(torch.tensor([1.0, -2.0, 3.0, 0.1]))
    ema.update(BATCH, BATCH)
    for sigma_rel in LENGTHS:
        assert torch.equal(ema.tensors(sigma_rel)["a"], tensors["a"])


def test_sixteen_bit_parameters_are_averaged_in_float32():
    """1 and 1 + 2⁻⁸ in turn: the mean of many lies between the two, where bfloat16 has nothing."""
    tensors = {"a": torch.ones(1, dtype=torch.bfloat16)}
    ema = PowerEMA(tensors, [0.2])
    for step in range(1, 201):
        tensors["a"].fill_(1 + 2**-7 * (step % 2))
        ema.update(step, 1)
    average = ema.tensors(0.2)["a"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(1 + 2**-8, abs=1e-4)


def test_buffers_are_copied_not_averaged():
    module = nn.BatchNorm1d(2)
    ema = PowerEMA(module, [0.1])
    for step in range(1, 5):
        module.running_mean.fill_(step)
        module.num_batches_tracked.fill_(step)
        module.weight.data.fill_(step)
        ema.update(step, 1)
    found = ema.tensors(0.1)
    assert found["running_mean"].tolist() == [4, 4]
    assert found["num_batches_tracked"] == torch.tensor(4)
    assert all(3 < value < 4 for value in found["weight"].tolist())


def test_training_is_left_alone():
    """Averages share no memory with the parameters and carry no gradients."""
    module = nn.Linear(3, 2)
    ema = PowerEMA(module, LENGTHS)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in (1, 2, 3):
        ema.update(step, 1)
    ema.tensors(0.05)["weight"].zero_()
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert not any(t.requires_grad for t in ema.tensors(0.05).values())


def test_a_restored_average_continues_as_if_never_stopped():
    def start():
        tensors = {"a": torch.zeros(5)}
        return tensors, PowerEMA(tensors, LENGTHS)

    (tensors, ema), (others, restored) = start(), start()
    walk(ema, tensors, 20)
    restored.load_state_dict(
        {k: {n: t.clone() for n, t in v.items()} for k, v in ema.state_dict().items()}
    )
    others["a"].copy_(tensors["a"])
    for step in (21, 22):
        for one, average in ((tensors, ema), (others, restored)):
            one["a"] += step
            average.update(step * BATCH, BATCH)
    for sigma_rel in LENGTHS:
        assert torch.equal(ema.tensors(sigma_rel)["a"], restored.tensors(sigma_rel)["a"])


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match=r"0\.29: expected within"):
        PowerEMA(nn.Linear(2, 2), [0.1, 0.29])
