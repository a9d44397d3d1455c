"""The traditional average: EDM's update, its effective length, and its snapshots on disk."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import edm2
from edm2.ema import (
    Snapshot,
    SnapshotStore,
    TraditionalEMA,
    copy_files,
    gamma_to_sigma_rel,
    write_snapshot,
)
from edm2.ema.index import index_training
from edm2.ema.profile import traditional_beta, traditional_sigma_rel
from edm2.ema.reconstruct import Target
from edm2.params import UserError
from edm2.runtime.checkpoint import load_tree, save_tree

PAPER = Path(edm2.__file__).parent / "reporting" / "paper"
HALFLIFE, RAMPUP, BATCH = 64, 0.1, 8  # the cap ends at 640 images


def simulated_length(nimg, halflife, rampup):
    """Standard deviation over time of the weights that steps of one image end up with."""
    weights = np.zeros(nimg)
    for t in range(1, nimg + 1):
        share = 0.5 ** (1 / min(halflife, rampup * t))
        weights[: t - 1] *= share
        weights[t - 1] = 1 - share
    times = np.arange(nimg) + 0.5  # the middle of each step
    mean = np.average(times, weights=weights)
    return math.sqrt(np.average((times - mean) ** 2, weights=weights)) / nimg


@pytest.mark.parametrize(
    ("nimg", "halflife", "rampup"),
    [
        (4000, 10**9, 0.05),  # half-life capped throughout
        (4000, 10**9, 0.3),
        (4000, 200, 0.05),  # the cap ends at the very end
        (4000, 160, 0.05),  # a little before
        (4000, 100, 0.2),  # long before
        (8000, 100, 1.0),
    ],
)
def test_length_equals_that_of_the_simulated_update(nimg, halflife, rampup):
    expected = simulated_length(nimg, halflife, rampup)
    assert traditional_sigma_rel(nimg, halflife, rampup) == pytest.approx(expected, rel=2e-3)


def test_length_in_the_limits():
    """Capped: the power function whose share halves over 5% of time. Late: 1/ln 2 half-lives."""
    capped = gamma_to_sigma_rel(math.log(2) / 0.05 - 1)
    assert traditional_sigma_rel(1e6, 1e9, 0.05) == pytest.approx(capped)
    late = 1000 / math.log(2) / 1e8
    assert traditional_sigma_rel(1e8, 1000, 0.05) == pytest.approx(late, rel=1e-6)


def test_length_of_config_a_equals_the_papers():
    """A half-life of 50 Mimg at the end of training: 0.034 in Table 1."""
    paper = pd.read_csv(PAPER / "configs.csv").set_index("config").ema_length["A"]
    models = pd.read_csv(PAPER / "models.csv").set_index(["dataset", "size"])
    end = models.duration_mimg["imagenet-512", "S"]
    assert round(traditional_sigma_rel(end * 1e6, 50e6, 0.05), 3) == paper == 0.034


def test_beta_by_hand():
    """½ after a half-life, √½ after half of one; early, the half-life is 5% of the time."""
    assert traditional_beta(10**9, 100, 100, 0.05) == pytest.approx(1 / 2)
    assert traditional_beta(10**9, 50, 100, 0.05) == pytest.approx(math.sqrt(1 / 2))
    assert traditional_beta(1000, 100, 10**6, 0.05) == pytest.approx(1 / 4)  # capped at 50
    assert traditional_beta(2000, 100, 100, 0.05) == pytest.approx(1 / 2)  # where the cap ends
    assert traditional_beta(100, 100, 10**6, 0.05) < 1e-5  # the first update


def steps(ema, tensors, first, last):
    """Steps of a walk that is always the same; name and values of each tensor after each step."""
    positions = []
    for step in range(first, last + 1):
        for name, tensor in tensors.items():
            rng = np.random.default_rng(step)
            tensor.data += torch.from_numpy(rng.normal(size=tensor.shape)).float()
            positions.append((name, tensor.detach().double().numpy().copy()))
        ema.update(step * BATCH, BATCH)
    return positions


def test_average_equals_edms_loop():
    """Over 1200 images: half-life capped until 640, constant after that."""
    tensors = {"a": torch.full((3, 2), 5.0)}
    ema, expected = TraditionalEMA(tensors, HALFLIFE, RAMPUP), tensors["a"].double().numpy().copy()
    for k, (_, current) in enumerate(steps(ema, tensors, 1, 150), 1):
        share = 0.5 ** (BATCH / min(HALFLIFE, RAMPUP * k * BATCH))
        expected = share * expected + (1 - share) * current
    ((snapshot, average),) = ema.snapshots(1200).items()
    np.testing.assert_allclose(average["a"].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (snapshot.nimg, snapshot.average) == (1200, "traditional")
    assert snapshot.sigma_rel == pytest.approx(simulated_length(1200, HALFLIFE, RAMPUP), rel=2e-2)


def test_buffers_are_copied_and_16_bit_parameters_are_averaged_in_float32():
    module = nn.BatchNorm1d(2).to(torch.bfloat16)
    ema = TraditionalEMA(module, HALFLIFE, RAMPUP)
    for step in range(1, 5):
        module.running_mean.fill_(step)
        module.weight.data.fill_(step)
        ema.update(step * BATCH, BATCH)
    ((_, average),) = ema.snapshots(4 * BATCH).items()
    assert average["running_mean"].tolist() == [4, 4]
    assert average["weight"].dtype == torch.float32
    assert all(3 < value < 4 for value in average["weight"].tolist())


def test_a_restored_average_continues_to_the_same_bits(tmp_path):
    def start():
        tensors = {"a": torch.zeros(5)}
        return tensors, TraditionalEMA(tensors, HALFLIFE, RAMPUP)

    (tensors, ema), (restored_tensors, restored) = start(), start()
    steps(ema, tensors, 1, 20)
    save_tree(tmp_path / "state", ema.state_dict())
    restored.load_state_dict(load_tree(tmp_path / "state"))
    restored_tensors["a"].copy_(tensors["a"])
    steps(ema, tensors, 21, 25)
    steps(restored, restored_tensors, 21, 25)
    averages = [next(iter(tracker.snapshots(200).values()))["a"] for tracker in (ema, restored)]
    assert torch.equal(*averages)


@pytest.fixture
def trained(tmp_path):
    """The folder of a training with snapshots after 25, 50 and 75 steps, and its averages."""
    folder, tensors, written = tmp_path / "training", {"w": torch.zeros(4)}, {}
    ema = TraditionalEMA(tensors, HALFLIFE, RAMPUP)
    for last in (25, 50, 75):
        steps(ema, tensors, last - 24, last)
        snapshots = ema.snapshots(last * BATCH)
        for snapshot, average in snapshots.items():
            write_snapshot(folder, snapshot, average, [])
        written |= {s.nimg: (s, average["w"].clone()) for s, average in snapshots.items()}
    return folder, written


@pytest.fixture
def store(trained, tmp_path):
    index_training(SnapshotStore(trained[0]), tmp_path / "store", "../training", 600)
    return SnapshotStore(tmp_path / "store")


def test_a_store_lists_the_snapshots_that_were_written(trained, store):
    """Also two of the same length, while the half-life is capped."""
    folder, written = trained
    expected = [snapshot for snapshot, _ in written.values()]
    assert [s.nimg for s in expected] == [200, 400, 600]
    assert expected[0].sigma_rel == expected[1].sigma_rel > 0.1
    assert SnapshotStore(folder).snapshots == store.snapshots == expected
    assert store.has_fixed_lengths
    assert {s.average for s in store.snapshots} == {"traditional"}
    profiles = [(p.nimg, p.halflife_nimg, p.rampup) for p in (s.profile for s in store.snapshots)]
    assert profiles == [(nimg, HALFLIFE, RAMPUP) for nimg in (200, 400, 600)]


def test_stored_averages_are_copied(trained, store, tmp_path):
    targets = {tmp_path / f"averages/{nimg}": Target(0.1, nimg) for nimg in (600, 200)}
    copies = copy_files(store, targets, torch.float32)
    assert [copy.nimg for copy in copies] == [600, 200]
    for path, copy in zip(targets, copies, strict=True):
        snapshot, average = trained[1][copy.nimg]
        weights = load_file(path)["w"]
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, average, rtol=2**-10, atol=1e-4)  # 16 bits on disk
        assert copy.sigma_rel == snapshot.sigma_rel
        assert (copy.average, copy.snapshots, copy.weight_sum) == ("traditional", 1, 1)
        assert copy.error == 0
        assert copy.trustworthy


@pytest.mark.parametrize("nimg", [0, 300, 601])
def test_a_time_without_a_snapshot_is_refused_with_the_times_that_exist(store, tmp_path, nimg):
    with pytest.raises(UserError, match=f" {nimg} images: .* 200, 400, 600"):
        copy_files(store, {tmp_path / "average": Target(0.1, nimg)}, torch.float16)
    assert not (tmp_path / "average").exists()


def test_a_missing_last_snapshot_is_refused(trained, tmp_path):
    folder, written = trained
    (folder / written[600][0].file).unlink()
    with pytest.raises(UserError, match="600 images"):
        index_training(SnapshotStore(folder), tmp_path / "store", "../training", 600)


def test_the_length_of_power_function_averages_is_fixed_only_for_a_single_snapshot(tmp_path):
    write_snapshot(tmp_path, Snapshot.power(8, 0.1), {"w": torch.zeros(1)}, [])
    assert SnapshotStore(tmp_path).has_fixed_lengths
    write_snapshot(tmp_path, Snapshot.power(16, 0.1), {"w": torch.zeros(1)}, [])
    assert not SnapshotStore(tmp_path).has_fixed_lengths
