"""Several ranks of one function, in processes that are forked and so need not import torch again."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 60


def fork_ranks(count: int, folder: Path, function: Callable[[], Any]) -> list[Any]:
    """What `function` returns on each of `count` ranks of a gloo group; None if it ends the process.

    Args:
        folder: for the files of this call; the same for several calls.
    """
    here = folder / f"ranks-{len(list(folder.glob('ranks-*')))}"
    here.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(rank, count, here, function)) for rank in range(count)
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


def _run(rank: int, count: int, here: Path, function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{here}/meeting", rank=rank, world_size=count
        )
        result = function(), ""
    except BaseException:
        result = None, traceback.format_exc()
    (here / str(rank)).write_bytes(pickle.dumps(result))
    os._exit(0)
