"""Several ranks of one function, in processes that are forked and so need not import torch again."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from edm2.runtime.distributed import process_group

SECONDS = 60


def fork_ranks(
    count: int, folder: Path, function: Callable[[], Any], port: int | None = None
) -> list[Any]:
    """What `function` returns on each of `count` ranks of a gloo group; None if it ends the process.

    Args:
        folder: for the files of this call; the same for several calls.
        port: where a store is; by default that of the first rank.
    """
    here = folder / f"ranks-{len(list(folder.glob('ranks-*')))}"
    here.mkdir()
    port = port or _free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(rank, count, port, here, function))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
        process.join()
    files = [here / str(rank) for rank in range(count)]
    results = [pickle.loads(f.read_bytes()) if f.exists() else (None, "") for f in files]
    failures = [failure for _, failure in results if failure]
    assert not failures, failures[0]
    return [result for result, _ in results]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _run(rank: int, count: int, port: int, here: Path, function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with suppress(BaseException), process_group(torch.device("cpu"), timeout_minutes=1.0):
        try:
            result = function(), ""
        except BaseException:
            result = None, traceback.format_exc()
        (here / str(rank)).write_bytes(pickle.dumps(result))
    os._exit(0)
