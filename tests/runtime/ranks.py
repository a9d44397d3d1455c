"""What each rank of test_distributed runs; prints its results as JSON."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tiny_autoencoder
import torch
from denoiser_on_rank import denoiser_steps, denoiser_trainings
from tiny_autoencoder import FULL_VAE, steady, vae_params

from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.params.section import Training
from edm2.runtime.distributed import (
    all_reduce,
    barrier,
    broadcast_tensors,
    on_main_process,
    process_group,
    raise_together,
    ranks,
    receive_from_others,
)
from edm2.runtime.divergence import DivergedError, StepMonitor
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import train
from edm2.runtime.manifest import write_manifest
from edm2.runtime.metrics import MetricAccumulator
from edm2.runtime.parallel import data_parallel, shard
from edm2.runtime.sharding import local
from edm2.runtime.state import State, open_state
from edm2.runtime.tracking import Run
from edm2.runtime.verification import damaged_files
from edm2.vae.training import VaeTask

CPU = torch.device("cpu")
SCHEDULE = Training(batch=4, duration_nimg=24, log_nimg=8)


class Steps:
    """Records the times of its steps; logs the first image of this rank's part."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def step(self, batch: int, nimg: int) -> dict[str, float]:
        self.times.append(nimg)
        return {"first": float(batch)}

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.times = list(state["times"])


def first_images(nimg: int) -> Iterator[int]:
    while True:
        yield nimg + 2 * ranks().rank
        nimg += 4


def interrupted(nimg: int) -> Iterator[int]:
    for first in first_images(nimg):
        if first == 10:  # rank 1 in images 8 to 11
            os.kill(os.getpid(), signal.SIGUSR1)
        yield first


def start(state: State, batches: Callable[[int], Iterator[int]]) -> Steps:
    task = Steps()
    train(
        "toy",
        task,
        batches,
        SCHEDULE,
        state,
        Run(Log(state.log), None),
        checkpoint_seconds=1e9,
        nonfinite_patience=None,
        remedy="",
    )
    return task


def reductions() -> dict[str, Any]:
    rank = ranks().rank
    values = torch.tensor([rank + 1, 10 * rank])
    accumulator = MetricAccumulator()
    accumulator.add({"whole": rank + 1.0, "parts": (12.0 * rank, 1 + 2 * rank)})
    return {
        "sum": all_reduce(values.clone()).tolist(),
        "max": all_reduce(values.clone(), "max").tolist(),
        "means": accumulator.compute_and_reset(),
        "received": list(receive_from_others({"rank": rank})),
        "raised": raised(),
    }


def raised() -> list[str]:
    """With no error, and with one of rank 1."""
    messages = []
    for error in (None, NotFiniteError("of rank 1") if ranks().rank else None):
        try:
            raise_together(error)
        except NotFiniteError as problem:
            messages.append(str(problem))
    return messages


def decisions() -> dict[str, Any]:
    """What the main process finds, and its error; damaged files, of which each rank reads some."""
    rank, folder = ranks().rank, Path("verified")

    def refuse() -> None:
        raise UserError(f"by rank {rank}")

    def write() -> None:
        folder.mkdir()
        for k in range(4):
            (folder / str(k)).write_text(str(k))
        write_manifest(folder)
        (folder / "1").write_text("x")
        (folder / "2").unlink()

    tensors = {
        "a": torch.tensor([1.5, rank]).half(),
        "b": torch.tensor(rank + 3),
        "c": torch.empty(0),
    }
    results: dict[str, Any] = {
        "value": on_main_process(lambda: rank + 7),
        "tensors": {
            name: [str(tensor.dtype), tensor.tolist()]
            for name, tensor in broadcast_tensors(tensors if rank == 0 else {}).items()
        },
    }
    try:
        on_main_process(refuse)
    except UserError as error:
        results["error"] = str(error)
    on_main_process(write)
    return {**results, "damaged": damaged_files([folder])}


def streak() -> list[object]:
    """A step that is finite on all ranks, one that is not on rank 1, one that is on none."""
    schedule = Training(batch=4, duration_nimg=400, log_nimg=4)
    run = Run(Log(Path(f"unused{ranks().rank}")), None)
    monitor = StepMonitor(schedule, 8, "", list, run, dict)
    checks: list[object] = []
    for step, finite in enumerate((True, ranks().rank == 0, False), 1):
        monitor.add(torch.tensor(finite), {})
        try:
            checks.append(monitor.check_steps(4 * step))
        except DivergedError as error:
            checks.append([error.since, error.nimg])
    return checks


def gradient() -> list[list[float]]:
    """Of a linear fit, each rank on its half of the batch; rank 1 starts from other weights."""
    rng, part = np.random.default_rng(0), slice(3 * ranks().rank, 3 * ranks().rank + 3)
    x, y = (torch.from_numpy(rng.normal(size=(6, n)))[part] for n in (3, 1))
    layer = torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]) + ranks().rank)
    parallel = data_parallel(layer, CPU)
    (parallel(x) - y).square().mean().backward()
    return layer.weight.grad.tolist()


def sharded_nonfinite() -> list[Any]:
    """With two NaN in the gradient of rank 1's row: their number, and this rank's row without them."""
    layer = torch.nn.Linear(3, 2, bias=False)
    shard(layer, [], CPU)
    layer(torch.ones(1, 3)).sum().backward()
    row = local(layer.weight.grad)
    if ranks().rank:
        row[0, 1:] = torch.nan
    return [int(zero_nonfinite(layer.parameters())), row.tolist()]


def vae_steps() -> dict[str, Any]:
    """The same for the VAE with all options, and its discriminator."""
    this, results = ranks(), {}
    share = tiny_autoencoder.BATCH // this.world_size
    part = slice(share * this.rank, share * (this.rank + 1))
    for microbatch in (None, 2):
        params = vae_params(
            FULL_VAE, microbatch=microbatch, adversarial__trainable_backbone=microbatch is not None
        )
        task = steady(tiny_autoencoder.make_task(params))
        for step in (1, 2):
            accumulator, batch = MetricAccumulator(), tiny_autoencoder.make_batch(params, step)
            accumulator.add(task.step(tuple(x[part] for x in batch), step * tiny_autoencoder.BATCH))
        results[str(microbatch)] = {
            "metrics": accumulator.compute_and_reset(),
            **vae_gradients(task),
        }
    return results


def vae_gradients(task: VaeTask) -> dict[str, Any]:
    parts = {"network": task.network, "discriminator": task.discriminator_task.discriminator}
    gradients = {
        name: {key: p.grad.tolist() for key, p in module.named_parameters() if p.requires_grad}
        for name, module in parts.items()
    }
    return {
        "gradients": gradients,
        "anchors": task.discriminator_task.discriminator.anchors.tolist(),
    }


def resuming() -> dict[str, Any]:
    results: dict[str, Any] = {}
    with open_state("toy", "interrupted") as state:
        try:
            start(state, interrupted)
        except Interrupted as interruption:
            barrier()
            results["stopped"] = {
                "status": interruption.status,
                "nimg": state.restore()["nimg"],
            }
        results["steps"] = start(state, first_images).times
        barrier()
        results["resumed_log"] = read_log(state.log)
    with open_state("toy", "uninterrupted") as state:
        start(state, first_images)
        barrier()
        results["uninterrupted_log"] = read_log(state.log)
    return results


with process_group(CPU, timeout_minutes=1.0):
    results = {
        **reductions(),
        "decisions": decisions(),
        "gradient": gradient(),
        "streak": streak(),
        "denoiser_steps": denoiser_steps(),
        "denoiser_trainings": denoiser_trainings(),
        "sharded_nonfinite": sharded_nonfinite(),
        "vae_steps": vae_steps(),
        **resuming(),
    }
print(json.dumps(results))
