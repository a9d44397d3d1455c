"""Paths of the denoiser's training."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from device.fake_cuda import CUDA, Recorder
from device.path import path
from tiny_denoiser import CLASSES, diffusion_params

from edm2.data.normalization import Normalization
from edm2.diffusion.batches import Batch, batches
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.objective import EdmObjective
from edm2.diffusion.setup import denoiser_for
from edm2.diffusion.training import Average, DenoiserTask
from edm2.ema import PowerEMA
from edm2.ema.tracker import TraditionalEMA
from edm2.params.configs import CONFIGS
from edm2.params.diffusion import Diffusion
from edm2.runtime.divergence import StepMonitor
from edm2.runtime.metrics import MetricAccumulator

BATCH, RESOLUTION = 4, 8

FULL_SIZE: dict[str, Any] = {
    "size": "S",
    "channels": None,
    "channel_mult": (1, 2, 3, 4),
    "res_blocks": 3,
    "attention_resolutions": None,
    "dropout": None,
}


def make_task(
    config: str, precision: str = "bf16", resolution: int = RESOLUTION, **changes: Any
) -> DenoiserTask:
    """A training task on the fake device."""
    values = {
        "batch": BATCH,
        "magnitudes_nimg": 3 * BATCH,
        "magnitudes_of_average": True,
        **changes,
    }
    params = diffusion_params(**values).of(config)
    denoiser = make_denoiser(config, params, precision, resolution)
    return DenoiserTask(denoiser, make_average(denoiser), params, 0, CUDA)


def make_denoiser(
    config: str, params: Diffusion, precision: str = "bf16", resolution: int = RESOLUTION
) -> Denoiser:
    runtime = SimpleNamespace(precision=precision, channels_last=True)
    namespace = SimpleNamespace(diffusion=params, runtime=runtime)
    with torch.device(CUDA):
        return denoiser_for(config, namespace, (4, resolution, resolution), CLASSES)


def make_average(denoiser: Denoiser) -> Average:
    if denoiser.config.average == "power":
        return PowerEMA(denoiser.unet, [0.05, 0.10])
    return TraditionalEMA(denoiser.unet, 50_000, 0.05)


def make_batch(resolution: int = RESOLUTION) -> Batch:
    """As `edm2.diffusion.batches` draws it on the device."""
    shape = (BATCH, 4, resolution, resolution)
    data, noise = (torch.randn(shape, device=CUDA) for _ in range(2))
    labels = torch.randint(0, CLASSES, (BATCH,), device=CUDA)
    return data, noise, torch.randn(BATCH, device=CUDA), labels


def train(config: str, changes: dict[str, Any], recorder: Recorder) -> Iterator[str]:
    """What the training loop does with a task: steps, then what happens at fixed times."""
    task = make_task(config, magnitudes_of_average=config == "G", **changes)
    accumulator = MetricAccumulator()
    schedule = SimpleNamespace(batch=BATCH, duration_nimg=100 * BATCH)
    run = SimpleNamespace(set_tag=lambda *tag: None)
    monitor = StepMonitor(schedule, 50 * BATCH, "", list, run, accumulator.latest)

    def step(number: int) -> None:
        metrics = task.step(make_batch(), number * BATCH)
        accumulator.add(monitor.add(accumulator.add(metrics), metrics))

    recorder.clear()
    step(1)  # once, counts of steps go to the device
    yield "step"
    if config not in MICROBATCHED:
        return
    bf16, task.denoiser.dtype = task.denoiser.dtype, torch.float16
    whole, task.params = task.params, task.params.changed({"microbatch": BATCH // 2})
    step(2)
    yield "step in microbatches"
    if config not in "AG":  # which have different averages
        return
    if config == "G":
        task.denoiser.dtype, task.params = bf16, whole
        step(3)
        yield "step with magnitudes"
    monitor.counts = torch.zeros(2, dtype=torch.int64)  # what is read is ones
    monitor.check_steps(3 * BATCH)
    accumulator.compute_and_reset()
    yield "log row"
    if config == "G":
        task.load_state_dict(task.state_dict())
        yield "state"
    for tensors in task.average.snapshots(3 * BATCH).values():
        assert all(tensor.device == CUDA for tensor in tensors.values())
    yield "snapshot"


ONE_LEVEL = {"channel_mult": (1,), "attention_resolutions": (RESOLUTION,)}
MICROBATCHED = "ADG"  # no weights are normalized, they are, and they are forced to be
for name in CONFIGS:  # A and, at size S, G have resampling
    waits = {"step": 1, **({"step_in_microbatches": 0} if name in MICROBATCHED else {})}
    path(f"train {name}", **waits)(partial(train, name, {} if name == "A" else ONE_LEVEL))


@path("train G at size S", step=0)
def full_size(recorder: Recorder) -> Iterator[str]:
    """A network that is as large as the paper's; its launches do not depend on the batch."""
    task = make_task("G", resolution=64, **FULL_SIZE)
    recorder.clear()
    task.step(make_batch(64), 2 * BATCH)
    yield "step"


class Latents:
    """Latents as they are read from shards."""

    shape = (4, RESOLUTION, RESOLUTION)
    normalization = Normalization(torch.zeros(4), torch.ones(4))
    samples = None

    def __len__(self) -> int:
        return 16

    def batch(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        values = torch.randn(2, len(indices), *self.shape).half()
        return values[0], values[1], torch.zeros(len(indices), dtype=torch.int64)


@path("stream of latents", batch=0)
def latents(recorder: Recorder) -> Iterator[str]:
    """From a thread, through pinned memory, to the device, where noise is drawn."""
    objective = EdmObjective(CONFIGS["G"])
    runtime = SimpleNamespace(workers=0, reading="random")
    start = batches(Latents(), objective, BATCH, 0.1, 0, runtime, CUDA)
    stream = start(0)
    next(stream)
    yield "first batch"
    data, noise, ln_sigma, labels = next(stream)
    yield "batch"
    assert {tensor.device for tensor in (data, noise, ln_sigma, labels)} == {CUDA}
    stream.close()
