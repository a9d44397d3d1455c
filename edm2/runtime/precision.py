"""What `runtime.precision: auto` stands for: the precision that is fastest on the device at hand.

A run keeps the precision that it began with, on whatever device it continues.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edm2.params import Params
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.device import DTYPES
from edm2.runtime.distributed import on_main_process
from edm2.runtime.locks import exclusive

CANDIDATES = ("fp32", "bf16")  # fp16 has a smaller range, which only a user can find sufficient
SECONDS = 1.0  # of measurement
RUN_SECONDS = 0.1  # of one run, with as many images as that takes
MIN_GAIN = 1.05  # of bf16, or fp32 is taken

TimedRun = Callable[[torch.dtype, int], object]  # of some images, in a precision of activations


def resolve_precision(
    params: Params,
    state: Path,
    device: torch.device,
    make_run: Callable[[], TimedRun],
    max_images: int,
) -> Params:
    """`params` with the precision that auto stands for; see `choose_precision`."""
    precision = params.runtime.precision
    return with_precision(params, choose_precision(precision, state, device, make_run, max_images))


def choose_precision(
    precision: str,
    state: Path,
    device: torch.device,
    make_run: Callable[[], TimedRun],
    max_images: int,
) -> str:
    """The precision that auto stands for; any other one as it is.

    The main process measures, says what it takes, and writes it into `state`; what is there already, it
    takes. Every rank must call this.

    Args:
        state: folder where the run keeps its state.
        make_run: called to measure.
        max_images: that the run's network gets at once.

    Raises:
        UserError: what is in `state` is damaged.
    """
    if precision != "auto":
        return precision
    choice = state / "precision.json"

    def decide() -> str:
        with exclusive(choice.with_suffix(".lock")):  # launches that share a run take the same
            kept = choice.exists()
            if not kept:
                times = measure(make_run(), device, max_images)
                content = {"precision": fastest(times), "ms": times, "device": _describe(device)}
                write_checked(choice, content)
            chosen = read_checked(
                choice, "", "Remove the folder that has it, or set runtime.precision."
            )
        print(_message(chosen, kept))
        return str(chosen["precision"])

    return on_main_process(decide)


def with_precision(params: Params, precision: str) -> Params:
    runtime = params.runtime.model_copy(update={"precision": precision})
    return params.model_copy(update={"runtime": runtime})


def ramp(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Values from -1 to 1, for measurements: they take no random numbers."""
    return torch.linspace(-1, 1, math.prod(shape), device=device).view(shape)


def measure(run: TimedRun, device: torch.device, max_images: int) -> dict[str, float]:
    """Milliseconds of `run` in each precision: the least of several, taken in turn for a second.

    The number of images is doubled from 1 until a run takes a tenth of a second.
    """

    def milliseconds(name: str) -> float:
        start = time.perf_counter()
        run(DTYPES[name], images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - start)

    images = 1
    milliseconds("fp32")  # loads and chooses kernels
    while milliseconds("fp32") < 1000 * RUN_SECONDS and 2 * images <= max_images:
        images *= 2
    for name in CANDIDATES:
        milliseconds(name)
    end = time.perf_counter() + SECONDS
    times = {name: milliseconds(name) for name in CANDIDATES}
    while time.perf_counter() < end:
        times = {name: min(least, milliseconds(name)) for name, least in times.items()}
    return times


def fastest(milliseconds: dict[str, float]) -> str:
    """bf16 if it is faster by more than what measurements scatter, else fp32."""
    return "bf16" if milliseconds["fp32"] > MIN_GAIN * milliseconds["bf16"] else "fp32"


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _message(choice: dict[str, Any], kept: bool) -> str:
    times = ", ".join(f"{name} {value:.3g} ms" for name, value in choice["ms"].items())
    when = "measured when this run began, " if kept else ""
    return f"precision: {choice['precision']} (auto: {when}{times}; {choice['device']})"
