"""The launcher exits with the status of the process that failed first, and prints no report."""

import logging
import signal

import pytest

pytest.importorskip("torch.distributed.run")

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from edm2.runtime.torchrun import main

FAILED = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file="<N/A>")
KILLED = ProcessFailure(local_rank=1, pid=1, exitcode=-9, error_file="<N/A>")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ChildFailedError("stage", {1: FAILED}), 2, ""),
        (
            ChildFailedError("stage", {1: KILLED}),
            137,
            "torchrun: process 1 was ended by SIGKILL.\n",
        ),
        (SignalException("stopped", signal.SIGINT), 130, ""),
    ],
)
def test_the_status_is_that_of_the_process(monkeypatch, capsys, error, status, printed):
    def torchrun():
        raise error

    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        logging.disable(logging.NOTSET)
    assert end.value.code == status
    assert capsys.readouterr().err == printed
