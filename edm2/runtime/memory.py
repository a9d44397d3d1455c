"""Memory of the process, and of the machine."""

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from edm2.params import UserError
from edm2.params.memory import Need

# of glibc's malloc.h: parameters of `mallopt`, and the largest values that it takes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
NEVER, LARGEST_ON_HEAP = 2**31 - 1, 2**30
CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def keep_freed_memory() -> None:
    """Reuse freed memory rather than give it back to the system, where the C library is glibc.

    Tensors on the CPU are allocated and freed all the time; pages that were given back are cleared one
    by one when they are used again (a training step of 31 million parameters: 100,000 page faults).
    The peak of memory rises by 2 %.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries do not have it
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, NEVER)
        mallopt(MMAP_THRESHOLD, LARGEST_ON_HEAP)


def require_memory(title: str, needs: Sequence[Need], device: torch.device) -> None:
    """Refuse work that needs more memory than there is, before it begins.

    Args:
        title: of the work, for the error.
        needs: of this process, all at once.

    Raises:
        UserError: names what is needed, what is there, and the params that make it smaller.
    """
    present, needed = total_memory(device), sum(need.bytes for need in needs)
    if needed <= present:
        return
    parts = ", ".join(f"{need.name}: {_gib(need.bytes)}" for need in needs)
    largest = max(needs, key=lambda need: need.bytes)
    raise UserError(
        f"{title}: needs at least {_gib(needed)} of memory ({parts}), and {device} has {_gib(present)}. Make "
        f"{largest.keys} smaller, or use a machine with more; `edm2 plan` shows all that is needed."
    )


def total_memory(device: torch.device) -> int:
    """Bytes that a device has, free or not; on the CPU with swap, up to the limit of the container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    swap = _number(Path("/proc/meminfo"), r"SwapTotal:\s*(\d+) kB", 0) * 1024
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_number(Path(path), r"(\d+)", installed) for path in CGROUP_LIMITS]
    return min(installed, *limits) + swap


def _number(path: Path, pattern: str, default: int) -> int:
    """A number in a file of the kernel; `default` if it has none."""
    match = re.search(pattern, path.read_text(encoding="ascii")) if path.is_file() else None
    return default if match is None else int(match[1])


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
