"""A toy training of several tensors: snapshots and averages against sums over all its steps."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edm2.ema import PowerEMA, Snapshot, SnapshotStore, reconstruct, write_snapshot

STEPS, BATCH, EVERY = 400, 32, 20
STORED, TARGETS = (0.05, 0.10), (0.02, 0.035, 0.07, 0.13, 0.2, 0.25)
TIMES = [STEPS, 300, 160]
SHAPES = {"conv.weight": (4, 3, 2), "gain": (), "linear": (5, 7), "bias": (6,)}


def exponent(sigma_rel):
    """γ of a length, by bisection of σ² = (γ+1) / ((γ+2)² (γ+3)), the Beta(γ+1, 1) variance."""
    low, high = 0.0, 1e4
    for _ in range(200):
        gamma = (low + high) / 2
        longer = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > sigma_rel**2
        low, high = (gamma, high) if longer else (low, gamma)
    return gamma


def shares(sigma_rel, steps):
    """The profile's integral over each of the steps before time `steps`."""
    return np.diff((np.arange(steps + 1) / steps) ** (exponent(sigma_rel) + 1))


class Net(nn.Module):
    """Parameters of various shapes, some with dotted names, and a buffer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Module()
        self.conv.weight = nn.Parameter(torch.zeros(SHAPES["conv.weight"]))
        for name in ("gain", "linear", "bias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(SHAPES[name])))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def train(folder, source, parameters):
    """A random walk; its float64 positions [steps, values] by name, and the averages at TIMES."""
    rng = np.random.default_rng(1)
    stored, direct = PowerEMA(source, STORED), PowerEMA(source, TARGETS)
    walk, averages = {name: [] for name in SHAPES}, {}
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor += torch.from_numpy(np.asarray(rng.normal(size=SHAPES[name]) / 20)).float()
                walk[name].append(tensor.double().numpy().ravel().copy())
        if isinstance(source, nn.Module):
            source.count.fill_(step)
        for ema in (stored, direct):
            ema.update(step * BATCH, BATCH)
        if step % EVERY == 0:
            for snapshot, tensors in stored.snapshots(step * BATCH).items():
                write_snapshot(folder, snapshot, tensors, list(stored.buffers), torch.float32)
        if step in TIMES:
            for length in TARGETS:
                tensors = direct.tensors(length)
                averages[length, step] = {n: t.clone() for n, t in tensors.items()}
    return {name: np.stack(positions) for name, positions in walk.items()}, averages


@pytest.fixture(scope="module", params=["module", "mapping"])
def toy(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    net = Net()
    mapping = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    source = net if request.param == "module" else mapping
    parameters = dict(net.named_parameters()) if request.param == "module" else mapping
    walk, averages = train(folder, source, parameters)
    return SnapshotStore(folder), walk, averages


def flat(tensors):
    return np.concatenate([tensors[name].double().numpy().ravel() for name in SHAPES])


def test_a_tracked_average_is_the_sum_over_all_steps(toy):
    _, walk, averages = toy
    for (length, steps), tensors in averages.items():
        for name, positions in walk.items():
            expected = shares(length, steps) @ positions[:steps]
            np.testing.assert_allclose(tensors[name].numpy().ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("steps", TIMES)
def test_reconstructions_are_within_the_bound_of_the_reported_error(toy, steps):
    """Cauchy-Schwarz: |∫(Σ x p − p_r) θ dτ| ≤ error ‖p_r‖ ‖θ‖, ‖p_r‖² = (γ+1)² / ((2γ+1) t).

    θ may be measured from its value at the end, as Σ x and ∫ p_r are 1, up to the deviation of
    `weight_sum`.
    """
    store, walk, averages = toy
    positions = np.concatenate([walk[name][:steps] for name in SHAPES], axis=1)
    for average, tensors in reconstruct(store, TARGETS, steps * BATCH):
        gamma, last = exponent(average.sigma_rel), positions[-1]
        norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * steps)
        bound = average.error * norm * np.linalg.norm(positions - last)
        bound += abs(average.weight_sum - 1) * np.linalg.norm(last)
        summed = shares(average.sigma_rel, steps) @ positions
        tracked = flat(averages[average.sigma_rel, steps])
        for direct in (summed, tracked):
            assert np.linalg.norm(flat(tensors) - direct) < 1.1 * bound + 1e-4
        assert (average.nimg, average.snapshots) == (steps * BATCH, 2 * steps // EVERY)


@pytest.mark.parametrize("steps", TIMES)
def test_trustworthy_reconstructions_are_accurate(toy, steps):
    """Within 1% of the norm of the average."""
    store, walk, _ = toy
    positions = np.concatenate([walk[name][:steps] for name in SHAPES], axis=1)
    pairs = reconstruct(store, TARGETS, steps * BATCH)
    trusted = [(average, tensors) for average, tensors in pairs if average.trustworthy]
    assert len(trusted) >= 2
    for average, tensors in trusted:
        direct = shares(average.sigma_rel, steps) @ positions
        distance = np.linalg.norm(flat(tensors) - direct) / np.linalg.norm(direct)
        assert distance < 0.01, (average, distance)


@pytest.mark.parametrize("steps", TIMES)
def test_weights_sum_to_nearly_one(toy, steps):
    """|Σ x − 1| = |∫ (Σ x p − p_r) dτ| ≤ error ‖p_r‖ √t."""
    for average, _ in reconstruct(toy[0], TARGETS, steps * BATCH):
        gamma = exponent(average.sigma_rel)
        deviation = abs(average.weight_sum - 1)
        assert deviation <= average.error * (gamma + 1) / np.sqrt(2 * gamma + 1) + 1e-9
        assert deviation < 0.01 or not average.trustworthy


@pytest.mark.parametrize("length", STORED)
@pytest.mark.parametrize("steps", TIMES)
def test_a_stored_average_is_reproduced(toy, length, steps):
    store, _, _ = toy
    ((average, tensors),) = reconstruct(store, [length], steps * BATCH)
    written = load_file(store.path(Snapshot.power(steps * BATCH, length)))
    assert set(tensors) == set(written)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, written[name], rtol=1e-6, atol=1e-6)
    assert average.error < 1e-6


def test_the_squared_error_falls_like_the_fourth_power_of_the_number_of_snapshots(tmp_path):
    """Slope of log error² over log n, n = 8…64 times of two lengths, as reported."""
    counts = [8, 16, 32, 64]
    for n in counts:
        for nimg in range(6400 // n, 6401, 6400 // n):
            for length in STORED:
                tensors = {"w": torch.zeros(1)}
                write_snapshot(tmp_path / str(n), Snapshot.power(nimg, length), tensors, [])
    for target in (0.07, 0.13, 0.2):
        errors = []
        for n in counts:
            ((average, _),) = reconstruct(SnapshotStore(tmp_path / str(n)), [target])
            errors.append(average.error)
        slope = np.polyfit(np.log(counts), 2 * np.log(errors), 1)[0]
        assert slope == pytest.approx(-4, abs=0.4), (target, errors)
        assert (errors[2] / errors[3]) ** 2 == pytest.approx(16, rel=0.15), (target, errors)
