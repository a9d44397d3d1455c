"""What each process of test_distributed does; prints what it found as JSON."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tiny_autoencoder
import torch
from tiny_autoencoder import EVERYTHING, steady, vae_params
from tiny_denoiser import BATCH, make_batch, make_task

from edm2.params.section import Training
from edm2.runtime.distributed import all_reduce, barrier, data_parallel, process_group, ranks
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import Interrupted, MetricAccumulator, train
from edm2.runtime.state import State, open_state
from edm2.runtime.tracking import Run
from edm2.vae.training import VaeTask

CPU = torch.device("cpu")
SCHEDULE = Training(batch=4, duration_nimg=24, log_nimg=8)


class Steps:
    """Remembers the times of its steps; logs the first image of this rank's part."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def step(self, batch: int, nimg: int) -> dict[str, float]:
        self.times.append(nimg)
        return {"first": float(batch)}

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.times = list(state["times"])


def firsts(nimg: int) -> Iterator[int]:
    while True:
        yield nimg + 2 * ranks().rank
        nimg += 4


def interrupted(nimg: int) -> Iterator[int]:
    for first in firsts(nimg):
        if first == 10:  # rank 1 in images 8 to 11
            os.kill(os.getpid(), signal.SIGTERM)
        yield first


def start(state: State, batches: Callable[[int], Iterator[int]]) -> Steps:
    task = Steps()
    train("toy", task, batches, SCHEDULE, state, Run(Log(state.log), None), checkpoint_seconds=1e9)
    return task


def reductions() -> dict[str, Any]:
    rank = ranks().rank
    values = torch.tensor([rank + 1, 10 * rank])
    averages = MetricAccumulator()
    averages.add({"whole": rank + 1.0, "parts": (12.0 * rank, 1 + 2 * rank)})
    return {
        "sum": all_reduce(values.clone()).tolist(),
        "max": all_reduce(values.clone(), "max").tolist(),
        "averages": averages.take(),
    }


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


def denoising() -> dict[str, Any]:
    """Gradients and metrics of a second step of the denoiser, each rank on its half of a batch."""
    part, found = slice(BATCH // 2 * ranks().rank, BATCH // 2 * (ranks().rank + 1)), {}
    for config, microbatch in (("A", 2), ("G", 2), ("G", None)):
        task = make_task(config, microbatch=microbatch, dropout=0.0, magnitudes_nimg=BATCH)
        for step in (1, 2):
            averages = MetricAccumulator()
            averages.add(task.step(tuple(x[part] for x in make_batch(step)), step * BATCH))
        gradients = {name: p.grad.tolist() for name, p in task.denoiser.named_parameters()}
        found[f"{config} {microbatch}"] = {"gradients": gradients, "metrics": averages.take()}
    return found


def reconstructing() -> dict[str, Any]:
    """The same of the autoencoder with everything on, and of its discriminator."""
    who, found = ranks(), {}
    share = tiny_autoencoder.BATCH // who.size
    part = slice(share * who.rank, share * (who.rank + 1))
    for microbatch in (None, 2):
        params = vae_params(EVERYTHING, microbatch=microbatch)
        task = steady(tiny_autoencoder.make_task(params))
        for step in (1, 2):
            averages, batch = MetricAccumulator(), tiny_autoencoder.make_batch(params, step)
            averages.add(task.step(tuple(x[part] for x in batch), step * tiny_autoencoder.BATCH))
        found[str(microbatch)] = {"metrics": averages.take(), **vae_gradients(task)}
    return found


def vae_gradients(task: VaeTask) -> dict[str, Any]:
    parts = {"network": task.network, "discriminator": task.discriminator_task.discriminator}
    gradients = {
        name: {key: p.grad.tolist() for key, p in module.named_parameters()}
        for name, module in parts.items()
    }
    return {
        "gradients": gradients,
        "anchors": task.discriminator_task.discriminator.anchors.tolist(),
    }


def resuming() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with open_state("toy", "parts") as state:
        try:
            start(state, interrupted)
        except Interrupted as stop:
            barrier()
            found["stopped"] = {"status": stop.status, "nimg": state.restore()["nimg"]}
        found["steps"] = start(state, firsts).times
        barrier()
        found["resumed_log"] = read_log(state.log)
    with open_state("toy", "whole") as state:
        start(state, firsts)
        barrier()
        found["whole_log"] = read_log(state.log)
    return found


with process_group(CPU):
    answer = {
        **reductions(),
        "gradient": gradient(),
        "denoising": denoising(),
        "reconstructing": reconstructing(),
        **resuming(),
    }
print(json.dumps(answer))
