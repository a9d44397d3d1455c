"""Processes that a benchmark starts: two ranks of a process group, and commands whose CPU time counts."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def on_two_ranks(
    script: str, arguments: Sequence[str], variables: Mapping[str, str], folder: Path | None = None
) -> Any:
    """The JSON in the last line that rank 0 prints.

    Args:
        variables: of the environment, besides those that torchrun sets.
        folder: where both run; None: here.

    Raises:
        SystemExit: a rank failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, os.path.abspath(script), *arguments],
            env={**os.environ, **address, **variables, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(1)
    return json.loads(outputs[0].splitlines()[-1])


def cpu_seconds(process: "subprocess.Popen[Any]") -> float:
    """CPU time of a process and of those that it has waited for, after it has ended; sets `returncode`."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime
