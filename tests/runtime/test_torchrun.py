"""The launcher exits with the status of the process that failed first, and prints no report."""

import logging
import os
import signal
from types import SimpleNamespace

import pytest

pytest.importorskip("torch.distributed.run")

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from edm2.runtime.torchrun import ATTEMPT, main, restarting_agent

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
    def torchrun(arguments):
        assert "SIGUSR1" in arguments[arguments.index("--signals-to-handle") + 1]
        assert arguments[2:] == ["-m", "stage"]
        raise error

    monkeypatch.setattr("sys.argv", ["torchrun.py", "-m", "stage"])
    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    monkeypatch.setattr(api, "LocalElasticAgent", api.LocalElasticAgent)  # restored after the test
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "7")  # the user's stays
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        logging.disable(logging.NOTSET)
    assert end.value.code == status
    assert capsys.readouterr().err == printed
    assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "7"


@pytest.mark.parametrize(
    ("statuses", "left", "printed"),
    [
        ([-9, 1], 2, "starting the processes again (2 of 3)"),
        ([1], 2, "starting the processes again (2 of 3)"),
        ([2, 2], 0, ""),  # wrong input
        ([143], 0, ""),  # SIGTERM to one process
        ([138, -9], 0, ""),
        ([], 2, ""),
    ],
)
def test_processes_whose_end_is_final_are_not_started_again(capsys, statuses, left, printed):
    class Agent:
        _remaining_restarts = 2

        def _monitor_workers(self, group):
            return group.result

    failures = {rank: SimpleNamespace(exitcode=status) for rank, status in enumerate(statuses)}
    group = SimpleNamespace(
        result=SimpleNamespace(failures=failures), spec=SimpleNamespace(max_restarts=3)
    )
    agent = restarting_agent(Agent)()
    assert agent._monitor_workers(group) is group.result
    assert agent._remaining_restarts == left
    assert (printed in capsys.readouterr().err) if printed else not capsys.readouterr().err


def test_one_start_has_one_name_on_all_machines(monkeypatch) -> None:
    """Whatever their restarts are: a machine whose processes have not failed counts none."""

    class Agent:
        def _start_workers(self, group):
            return os.environ[ATTEMPT]

    class Store(dict):
        def set(self, key, value):
            self[key] = value.encode()

        def get(self, key):
            return self[key]

    monkeypatch.setenv(ATTEMPT, "before")
    names = []
    for store in (Store(), Store()):  # of two rendezvous
        groups = [SimpleNamespace(group_rank=rank, store=store) for rank in (0, 1)]
        names.append({restarting_agent(Agent)()._start_workers(group) for group in groups})
    assert [len(of_start) for of_start in names] == [1, 1]
    assert names[0] != names[1]
