"""Two ranks compute what one computes; `ranks.py` is what each of them runs."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_autoencoder
import torch
from tiny_denoiser import BATCH, make_batch, make_task

from edm2.params.errors import UserError
from edm2.runtime import distributed
from edm2.runtime.distributed import (
    Ranks,
    all_reduce,
    is_main_process,
    process_group,
    ranks,
)
from edm2.runtime.metrics import MetricAccumulator
from edm2.runtime.parallel import data_parallel
from edm2.runtime.peers import Failure, LateRankError, PeerFailedError

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("ranks.py")
REPOSITORY = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two ranks."""
    root = tmp_path_factory.mktemp("project")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "DVC_ROOT": str(root),
        "PYTHONPATH": PATHS,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER],
            cwd=root,
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_the_main_process_decides(results) -> None:
    assert [r["decisions"]["value"] for r in results] == [7, 7]
    tensors = {
        "a": ["torch.float16", [1.5, 0.0]],
        "b": ["torch.int64", 3],
        "c": ["torch.float32", []],
    }
    assert [r["decisions"]["tensors"] for r in results] == [tensors] * 2
    assert [r["decisions"]["error"] for r in results] == ["by rank 0"] * 2


def test_ranks_verify_together(results) -> None:
    changed, missing = results[0]["decisions"]["damaged"]
    assert changed.startswith("verified/1: ")
    assert missing.startswith("verified/2: ")


def test_plain_python_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks(rank=0, world_size=1, local_rank=0)
    assert is_main_process()
    layer, ones = torch.nn.Linear(1, 1), torch.ones(2)
    assert data_parallel(layer, torch.device("cpu")) is layer
    assert all_reduce(ones).tolist() == [1, 1]


def test_ranks_come_from_torchruns_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert ranks() == Ranks(rank=5, world_size=8, local_rank=1)
    assert not is_main_process()


def test_all_reduce_gives_sum_and_maximum(results: list[dict[str, Any]]) -> None:
    for result in results:  # rank r gave [r + 1, 10 r]
        assert result["sum"] == [3, 10]
        assert result["max"] == [2, 10]


def test_means_of_metrics_are_over_all_ranks(results: list[dict[str, Any]]) -> None:
    for result in results:  # whole: 1 and 2; parts: sum 0 of 1 image, sum 12 of 3 images
        assert result["means"] == {"whole": 1.5, "parts": 3.0}


def test_the_main_process_receives_the_values_of_the_others(results: list[dict[str, Any]]) -> None:
    assert [result["received"] for result in results] == [[{"rank": 1}], []]


def test_an_error_of_one_rank_is_raised_on_all(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["raised"] == ["of rank 1"]


def test_ranks_stop_together_when_one_is_not_finite(results: list[dict[str, Any]]) -> None:
    """Rank 1 is not from 8 images on, rank 0 from 12; the patience of 8 images ends at 12."""
    for result in results:
        assert result["streak"] == [True, False, [8, 12]]


def test_gradients_are_those_of_the_whole_batch(results: list[dict[str, Any]]) -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(6, 3)), rng.normal(size=(6, 1)), np.array([[1.0, -2.0, 0.5]])
    expected = 2 / 6 * (x @ w.T - y).T @ x  # d/dw of mean (x·w − y)²
    for result in results:
        np.testing.assert_allclose(result["gradient"], expected, rtol=1e-12)


@pytest.mark.parametrize(("config", "microbatch"), [("A", 2), ("G", 2), ("G", None)])
def test_denoiser_steps_are_the_same_on_two_ranks(
    results: list[dict[str, Any]], config: Any, microbatch: int | None
) -> None:
    """Gradients and metrics of the second step; each rank has half a batch, with microbatches or not.

    Activations are measured on one microbatch of each rank, so they depend on microbatches.
    """
    task = make_task(config, dropout=0.0, magnitudes_nimg=BATCH)
    for step in (1, 2):
        accumulator = MetricAccumulator()
        accumulator.add(task.step(make_batch(step), (step + 1) * BATCH))
    metrics = accumulator.compute_and_reset()
    for result in (rank["denoiser_steps"][f"{config} {microbatch}"] for rank in results):
        assert result["metrics"].keys() == metrics.keys()
        for key, value in metrics.items():
            if microbatch is None or not key.startswith("activations"):
                assert result["metrics"][key] == pytest.approx(value, rel=2e-3), key
        for name, parameter in task.denoiser.named_parameters():
            ours, scale = torch.tensor(result["gradients"][name]), float(parameter.grad.abs().max())
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-3 * scale)
    assert results[0]["denoiser_steps"] == results[1]["denoiser_steps"]


@pytest.mark.parametrize("name", ["fsdp", "fsdp, then ddp"])
def test_sharded_trainings_are_those_of_ddp(results: list[dict[str, Any]], name: str) -> None:
    """All logged metrics and both averages, with dropout, interrupted after four of eight steps. In
    these, one rank has a microbatch of another size than DDP, and other activations are measured.
    """
    expected, actual = (results[0]["denoiser_trainings"][key] for key in ("ddp", name))
    assert [row["nimg"] for row in actual["log"]] == [BATCH * step for step in range(1, 9)]
    for step, (row, ours) in enumerate(zip(expected["log"], actual["log"], strict=True), 1):
        assert ours.keys() == row.keys()
        assert ("average/weights_mean/enc-8x8" in row) == (step % 2 == 0)
        for key, value in row.items():
            if step > 4 or name == "fsdp" or "activations" not in key:
                assert ours[key] == pytest.approx(value, rel=1e-6, abs=1e-6), (step, key)
    for before, after in zip(expected["averages"], actual["averages"], strict=True):
        assert after.keys() == before.keys()
        for key, values in before.items():
            ours = torch.tensor(after[key])
            torch.testing.assert_close(ours, torch.tensor(values), rtol=1e-6, atol=1e-6)


def test_all_ranks_count_what_is_not_finite_in_sharded_gradients(results) -> None:
    """Each row is the gradient of a sum over 3 ones, averaged over ranks that see the same."""
    counts, rows = zip(*(rank["sharded_nonfinite"] for rank in results), strict=True)
    assert counts == (2, 2)
    assert rows == ([[1, 1, 1]], [[1, 0, 0]])


def test_ranks_share_what_fsdp_shards(results: list[dict[str, Any]]) -> None:
    """Rank 0 has half of the rows of each parameter, rounded up, rank 1 the others; both have scalars."""
    one, two = (rank["denoiser_trainings"]["fsdp"] for rank in results)
    shapes = one["shapes"]
    assert [] in shapes
    assert 1 in (shape[0] for shape in shapes if shape)
    halves = [[math.ceil(shape[0] / 2), *shape[1:]] if shape else [] for shape in shapes]
    assert one["local"] == sum(map(math.prod, halves))
    assert two["local"] == sum(map(math.prod, shapes)) - one["local"] + shapes.count([])


@pytest.mark.parametrize("microbatch", [None, 2])
def test_vae_steps_are_the_same_on_two_ranks(
    results: list[dict[str, Any]], microbatch: int | None
) -> None:
    """The second step of VAE and discriminator, with all losses, transforms and flips; with microbatches the
    discriminator trains a copy of the backbone.

    Gradient norms and the discriminator's anchors are those of the whole batch.
    """
    params = tiny_autoencoder.vae_params(
        tiny_autoencoder.FULL_VAE, adversarial__trainable_backbone=microbatch is not None
    )
    task = tiny_autoencoder.steady(tiny_autoencoder.make_task(params))
    for step in (1, 2):
        row = task.step(tiny_autoencoder.make_batch(params, step), step * tiny_autoencoder.BATCH)
    metrics = {name: float(value) for name, value in row.items()}
    assert min(metrics[f"gradient/{name}"] for name in ("adversarial", "perceptual")) > 0
    discriminator = task.discriminator_task.discriminator
    for result in (rank["vae_steps"][str(microbatch)] for rank in results):
        assert result["metrics"] == pytest.approx(metrics, rel=2e-3, abs=1e-6)
        assert result["anchors"] == pytest.approx(discriminator.anchors.tolist(), rel=1e-3)
        for name, module in (("network", task.network), ("discriminator", discriminator)):
            for key, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    continue
                ours = torch.tensor(result["gradients"][name][key])
                scale = float(parameter.grad.abs().max())
                torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=2e-3 * scale)
    assert results[0]["vae_steps"] == results[1]["vae_steps"]


def test_signal_to_one_rank_stops_all_after_the_same_step(results: list[dict[str, Any]]) -> None:
    for result in results:  # SIGUSR1 on rank 1 while it read the batch of images 8 to 11
        assert result["stopped"] == {"status": 138, "nimg": 12}
        assert result["steps"] == [4, 8, 12, 16, 20, 24]


def test_log_has_means_over_all_ranks(results: list[dict[str, Any]]) -> None:
    # a rank's metric is the number of the first image of its part: 0, 4, 8, … and 2, 6, 10, …
    expected = [{"nimg": 8, "first": 3.0}, {"nimg": 16, "first": 11.0}, {"nimg": 24, "first": 19.0}]
    assert results[0]["uninterrupted_log"] == expected


def test_resumed_log_equals_the_uninterrupted_one(results: list[dict[str, Any]]) -> None:
    assert results[0]["resumed_log"] == results[0]["uninterrupted_log"]


def test_a_module_is_compiled_only_if_params_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    module = torch.nn.Linear(2, 2)
    assert data_parallel(module, torch.device("cpu")) is module
    assert compiled == []
    assert data_parallel(module, torch.device("cpu"), compiled=True) is module
    assert compiled == [module]


@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", "²"])
def test_ranks_that_are_no_numbers_are_refused(monkeypatch, value):
    monkeypatch.setenv("RANK", value)
    with pytest.raises(UserError, match=r"^RANK: .*expected a whole number.*torchrun"):
        ranks()


def test_several_processes_without_an_address_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(UserError, match=r"WORLD_SIZE is 2, but MASTER_PORT .*torchrun"),
        process_group(torch.device("cpu"), 1.0),
    ):
        pass


def test_collectives_time_out_and_the_gpu_is_bound(monkeypatch):
    """PyTorch's own timeout comes after ours, which names the rank."""
    calls = []

    def init_process_group(backend, **options):
        calls.append((backend, options))
        raise InterruptedError  # nothing that follows can be run without a GPU

    def rendezvous(url, rank, size, timeout):
        yield torch.distributed.HashStore(), rank, size

    monkeypatch.setattr(distributed, "rendezvous", rendezvous)
    monkeypatch.setattr("torch.distributed.init_process_group", init_process_group)
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    for device in (torch.device("cuda", 1), torch.device("cpu")):
        with pytest.raises(InterruptedError), process_group(device, 10.0):
            pass
    (gpu_backend, gpu), (cpu_backend, cpu) = calls
    assert (gpu_backend, gpu["device_id"]) == ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))
    assert (cpu_backend, cpu["device_id"]) == ("gloo", None)
    assert 10 < gpu["timeout"].total_seconds() / 60 <= 12


def test_a_wait_with_a_timeout_ends(monkeypatch):
    """A rank that does not arrive, and one that fails while others wait for it."""
    peers = SimpleNamespace(failure=None)
    monkeypatch.setattr(distributed, "_group", SimpleNamespace(peers=peers))
    never = SimpleNamespace(is_completed=lambda: False)
    with pytest.raises(LateRankError, match=r"0\.0001 minutes \(runtime\.timeout_minutes\)"):
        distributed._wait(never, 0.006)
    peers.failure = Failure(1, 2, "")
    with pytest.raises(PeerFailedError, match="another rank"):
        distributed._wait(never, None)
