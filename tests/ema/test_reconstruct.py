"""A toy training: averages made from its snapshots against averages tracked throughout."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edm2.ema import (
    PowerEMA,
    Snapshot,
    SnapshotStore,
    reconstruct,
    sigma_rel_to_gamma,
    write_snapshot,
)
from edm2.params import UserError

STEPS, BATCH, DIMS, SNAPSHOTS = 2048, 16, 64, 32
END = STEPS * BATCH
TARGETS = [0.04, 0.07, 0.13, 0.2]


def positions():
    """The walk [steps, dims], float32."""
    steps = np.random.default_rng(0).normal(size=(STEPS, DIMS)) / np.sqrt(STEPS)
    return np.cumsum(steps, axis=0).astype(np.float32)


def direct(sigma_rel, steps=STEPS):
    """The average of the walk after some steps, with the profile's integral over each step."""
    profile = (np.arange(steps + 1) / steps) ** (sigma_rel_to_gamma(sigma_rel) + 1)
    return np.diff(profile) @ positions()[:steps].astype(np.float64)


def train(folder, snapshots, lengths=(0.05, 0.10)):
    """Walk, and store float32 snapshots at equal intervals, with a buffer that counts steps."""
    tensors = {"weight": torch.zeros(8, DIMS // 8)}
    ema = PowerEMA(tensors, lengths)
    for step, position in enumerate(positions(), 1):
        tensors["weight"].copy_(torch.from_numpy(position).reshape(8, -1))
        ema.update(step * BATCH, BATCH)
        if step % (STEPS // snapshots) == 0:
            for length in lengths:
                averages = {**ema.tensors(length), "buffer": torch.tensor([step, 0.5])}
                snapshot = Snapshot.power(step * BATCH, length)
                write_snapshot(folder, snapshot, averages, ["buffer"], torch.float32)
    return SnapshotStore(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return train(tmp_path_factory.mktemp("store"), SNAPSHOTS)


def distance(tensors, expected):
    return float(np.linalg.norm(tensors["weight"].double().numpy().ravel() - expected))


@pytest.mark.parametrize("steps", [STEPS, STEPS * 5 // 8])
def test_reconstructions_equal_tracked_averages(store, steps):
    """At the end and at an earlier snapshot, within the bound that the reported error gives.

    |Σ x θ̂ − θ̂_r| ≤ ‖Σ x p − p_r‖·‖θ‖ (Cauchy-Schwarz), ‖p_r‖² = (γ+1)²/((2γ+1) t).
    """
    walk = positions()[:steps].astype(np.float64)
    for average, tensors in reconstruct(store, TARGETS, steps * BATCH):
        gamma = sigma_rel_to_gamma(average.sigma_rel)
        norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * steps)
        bound = average.error * norm * np.linalg.norm(walk)
        expected = direct(average.sigma_rel, steps)
        assert distance(tensors, expected) < bound + 1e-4
        assert distance(tensors, expected) < 0.01 * np.linalg.norm(expected)
        assert average.weight_sum == pytest.approx(1, abs=1e-2)
        assert average.trustworthy
        assert average.nimg == steps * BATCH
        assert average.snapshots == 2 * SNAPSHOTS * steps // STEPS


def test_weights_are_divided_by_their_sum_unless_told_otherwise(tmp_path):
    """The sum before that is reported in both cases, and the error is that of the weights used."""
    store = train(tmp_path, 2)
    ((average, tensors),) = reconstruct(store, [0.2])
    ((printed, least_squares),) = reconstruct(store, [0.2], normalize=False)
    assert average.weight_sum == printed.weight_sum
    assert abs(printed.weight_sum - 1) > 1e-3
    expected = least_squares["weight"] / printed.weight_sum
    torch.testing.assert_close(tensors["weight"], expected, rtol=1e-4, atol=1e-5)
    assert average.error > printed.error
    constant = {"weight": torch.full((8, DIMS // 8), 7.0), "buffer": torch.zeros(2)}
    for snapshot in store.snapshots:
        write_snapshot(tmp_path, snapshot, constant, ["buffer"], torch.float32)
    ((_, same),) = reconstruct(SnapshotStore(tmp_path), [0.2])
    torch.testing.assert_close(same["weight"], constant["weight"])


def test_targets_differ_from_the_stored_averages(store):
    """Otherwise a copy of the nearest stored average could pass the tests above."""
    stored = [direct(length) for length in (0.05, 0.10)]
    for average, tensors in reconstruct(store, [0.13, 0.2]):
        error = distance(tensors, direct(average.sigma_rel))
        assert error * 10 < min(distance(tensors, other) for other in stored)


def test_the_error_falls_steeply_with_the_number_of_snapshots(tmp_path):
    """By a factor of 4 or more with each doubling, on the toy itself."""
    errors = []
    for n in (4, 8, 16):
        store = train(tmp_path / str(n), n)
        distances = [
            distance(tensors, direct(average.sigma_rel))
            for average, tensors in reconstruct(store, [0.03, 0.07, 0.13])
        ]
        errors.append(np.linalg.norm(distances))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10])
def test_a_stored_average_is_reproduced(store, sigma_rel):
    for nimg in (END, END // 2):
        ((average, tensors),) = reconstruct(store, [sigma_rel], nimg)
        written = load_file(store.path(Snapshot.power(nimg, sigma_rel)))
        torch.testing.assert_close(tensors["weight"], written["weight"])
        assert average.error < 1e-6
        assert average.weight_sum == pytest.approx(1)


def test_snapshots_of_a_single_length_work_too(tmp_path):
    store = train(tmp_path, 16, lengths=(0.05,))
    ((average, tensors),) = reconstruct(store, [0.13])
    expected = direct(0.13)
    assert distance(tensors, expected) < 0.1 * np.linalg.norm(expected)
    assert average.snapshots == 16


def test_buffers_are_those_of_the_last_snapshot_that_is_used(store):
    for steps in (STEPS, STEPS // 2):
        for _, tensors in reconstruct(store, TARGETS, steps * BATCH):
            assert tensors["buffer"].tolist() == [steps, 0.5]


def test_averages_are_float32_in_the_shapes_of_the_snapshots_and_the_order_of_the_lengths(store):
    averages = list(reconstruct(store, [0.2, 0.04]))
    assert [average.sigma_rel for average, _ in averages] == [0.2, 0.04]
    for _, tensors in averages:
        assert set(tensors) == {"weight", "buffer"}
        assert tensors["weight"].shape == (8, DIMS // 8)
        assert tensors["weight"].dtype == torch.float32


def test_a_length_that_snapshots_cannot_resolve_is_not_trustworthy(store):
    """0.005 of the training is shorter than the time between two snapshots."""
    ((average, tensors),) = reconstruct(store, [0.005])
    assert not average.trustworthy
    assert distance(tensors, direct(0.005)) > 0.01 * np.linalg.norm(direct(0.005))


@pytest.mark.parametrize("nimg", [0, BATCH, END // SNAPSHOTS - 1, END + 1])
def test_impossible_times_are_refused(store, nimg):
    with pytest.raises(UserError, match=f" {nimg} images: .* {END // SNAPSHOTS} and {END}"):
        list(reconstruct(store, [0.1], nimg))


@pytest.mark.parametrize("sigma_rel", [0.0, 0.2887, 1.0])
def test_impossible_lengths_are_refused(store, sigma_rel):
    with pytest.raises(ValueError, match=str(sigma_rel)):
        list(reconstruct(store, [0.1, sigma_rel]))
