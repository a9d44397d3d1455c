"""Steps and trainings of the denoiser on each rank of test_distributed."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from tiny_denoiser import BATCH, make_batch, make_task

from edm2.ema.tracker import PowerEMA
from edm2.params.section import Training
from edm2.runtime.distributed import barrier, ranks
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import train
from edm2.runtime.metrics import MetricAccumulator
from edm2.runtime.sharding import gather, local
from edm2.runtime.state import open_state
from edm2.runtime.tracking import Run

ONE_LEVEL: dict[str, Any] = {
    "channel_mult": (1,),
    "attention_resolutions": (8,),
    "magnitudes_nimg": 2 * BATCH,
    "magnitudes_of_average": True,
}


def denoiser_steps() -> dict[str, Any]:
    """Gradients and metrics of a second step of the denoiser, each rank on its half of a batch."""
    part, results = slice(BATCH // 2 * ranks().rank, BATCH // 2 * (ranks().rank + 1)), {}
    for config, microbatch in (("A", 2), ("G", 2), ("G", None)):
        task = make_task(config, microbatch=microbatch, dropout=0.0, magnitudes_nimg=BATCH)
        for step in (1, 2):
            accumulator = MetricAccumulator()
            accumulator.add(task.step(tuple(x[part] for x in make_batch(step)), (step + 1) * BATCH))
        results[f"{config} {microbatch}"] = {
            "gradients": {name: p.grad.tolist() for name, p in task.denoiser.named_parameters()},
            "metrics": accumulator.compute_and_reset(),
        }
    return results


def denoiser_trainings() -> dict[str, Any]:
    """Eight steps with options that change no result."""
    fsdp, recomputed = {"data_parallel": "fsdp"}, {"activation_checkpointing": True}
    return {
        "ddp": denoiser_training("ddp", [{}]),
        "fsdp": denoiser_training("fsdp", [fsdp | recomputed, fsdp]),
        "fsdp, then ddp": denoiser_training("mixed", [fsdp | {"microbatch": 2}, recomputed]),
    }


def denoiser_training(name: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The log, and both averages: those of the main process, which writes them.

    Args:
        tasks: options of the task; of two, the second continues after four steps of the first.
    """
    with open_state("denoiser", name) as state:
        for options in tasks:
            last = options is tasks[-1]
            task = make_task(**ONE_LEVEL, **options)
            task.average = PowerEMA(task.denoiser.unet, [0.05, 0.1])
            with contextlib.nullcontext() if last else contextlib.suppress(Interrupted):
                train(
                    "denoiser",
                    task,
                    halves if last else halves_until_the_fourth,
                    Training(batch=BATCH, duration_nimg=8 * BATCH, log_nimg=BATCH),
                    state,
                    Run(Log(state.log), None),
                    checkpoint_seconds=1e9,
                    nonfinite_patience=None,
                    remedy="",
                )
        barrier()
        averages = [gather(task.average.tensors(length)) for length in (0.05, 0.1)]
        return {
            "log": read_log(state.log),
            "shapes": [list(p.shape) for p in task.denoiser.parameters()],
            "local": sum(local(p).numel() for p in task.denoiser.parameters()),
            "averages": [
                {name: tensor.tolist() for name, tensor in average.items()} for average in averages
            ],
        }


def halves(nimg: int) -> Iterator[Any]:
    """This rank's half of each batch, from time `nimg` on."""
    part = slice(BATCH // 2 * ranks().rank, BATCH // 2 * (ranks().rank + 1))
    while True:
        yield tuple(x[part] for x in make_batch(nimg // BATCH))
        nimg += BATCH


def halves_until_the_fourth(nimg: int) -> Iterator[Any]:
    for step, batch in enumerate(halves(nimg), 1):
        if step == 4 and ranks().rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch
