"""Measurements in processes of their own, so that none finds another's memory or threads."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def alone(script: str, arguments: Sequence[str], told: str) -> dict[str, Any]:
    """What a run of `script` prints in its last line, as JSON; or under "failed" why it did not."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"{told}: done", file=sys.stderr)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:60]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_gib(device: Any = None) -> float:
    """Most memory so far, of a CUDA device or of this process."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
