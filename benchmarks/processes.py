"""Measurements in separate processes, so that memory and threads of one do not affect another."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
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
