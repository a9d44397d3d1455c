"""Ranks that torchrun starts again after a crash, with the store of those before."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fork_ranks import fork_ranks

from edm2.runtime.distributed import all_reduce, ranks
from edm2.runtime.torchrun import ATTEMPT

pytestmark = pytest.mark.slow


def test_ranks_do_not_connect_to_those_of_before(tmp_path: Path, monkeypatch) -> None:
    """The store has the addresses of both; rank 0 would take that of the former rank 1, which is late."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    init = dist.init_process_group

    def late(*args: Any, **options: Any) -> None:
        time.sleep(0.5 * ranks().rank)
        init(*args, **options)

    monkeypatch.setattr(dist, "init_process_group", late)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    count = "TORCHELASTIC_RESTART_COUNT"  # of plain torchrun; ours gives names
    for variable, name in ((count, "0"), (count, "1"), (ATTEMPT, "a")):
        monkeypatch.setenv(variable, name)
        sums = fork_ranks(2, tmp_path, lambda: all_reduce(torch.ones(1)).item(), store.port)
        assert sums == [2, 2]
