"""Time and memory of training steps, measured in separate processes that do not affect each other."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any


def run_in_own_process(script: str, arguments: Sequence[str], label: str) -> dict[str, Any]:
    """The JSON object in the last line that `script` prints; if it fails, {"failed": reason}.

    Args:
        label: printed to stderr when the process has ended.
    """
    command = [sys.executable, script, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    print(f"{label}: done", file=sys.stderr)
    if process.returncode:
        return {"failed": (process.stderr.strip().splitlines() or ["killed"])[-1][:60]}
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def peak_gib(device: Any = None) -> float:
    """Peak memory so far of a CUDA device, or else of this process, in GiB."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def time_steps(
    step: Callable[[int], Any], images: int, warmup: int, steps: int, device: Any
) -> dict[str, float]:
    """Median seconds of a training step, images per second, CPU seconds, peak memory, first step.

    On a GPU also the kernels and copies that a step starts, and the seconds it computes them.

    Args:
        step: step(nimg) trains on `images` images.
        warmup: steps that are not timed.
    """
    import torch

    from edm2.runtime.device import fastest_convolutions, use_full_float32

    def timed_step(nimg: int) -> float:
        start = time.perf_counter()
        step(nimg)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    use_full_float32()
    with fastest_convolutions():
        seconds = [timed_step((k + 1) * images) for k in range(warmup)]
        start = time.process_time()  # other processes on the machine do not add to it
        seconds += [timed_step((warmup + k + 1) * images) for k in range(steps)]
        cpu = time.process_time() - start
        typical = median(seconds[warmup:])
        result = {
            "s/step": typical,
            "images/s": images / typical,
            "CPU s/step": cpu / steps,
            "peak GiB": peak_gib(device),
            "first step s": seconds[0],
        }
        if device.type == "cuda":
            result |= profile_step(partial(timed_step, (warmup + steps + 1) * images))
    return result


def profile_step(step: Callable[[], Any]) -> dict[str, float]:
    """Number of kernels and copies that a step starts on a GPU, and the seconds that they take."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        step()
    events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    return {
        "kernels": len(events),
        "busy s": sum(event.device_time_total for event in events) / 1e6,
    }
