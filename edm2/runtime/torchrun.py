"""torchrun for edm2: what the processes say is all that is printed, and signals reach them in time.

    launch: python -m edm2.runtime.torchrun --nproc_per_node=8

Options are those of torchrun, with two other defaults: SIGUSR1 is passed on as SIGTERM is, and processes
have five minutes to save after a signal. `--max-restarts` starts processes again that have crashed or were
killed, not those that were asked to stop or refuse their input. The exit status is that of the process that
failed first.
"""

import logging
import os
import sys
import uuid
from typing import Any

from edm2.runtime.interruption import SIGNALS

PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
SECONDS_TO_SAVE = 300
USER_ERROR = 2
ATTEMPT = "EDM2_ATTEMPT"  # environment variable: names one start of all processes on all machines
FINAL = {USER_ERROR, *(128 + signum for signum in SIGNALS)}  # statuses that would come again


def main() -> None:
    logging.disable(logging.ERROR)  # of torchrun; the processes have their own logs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import api
    from torch.distributed.run import main as torchrun

    name = "LocalElasticAgent"  # where torchrun finds it
    setattr(api, name, restarting_agent(getattr(api, name)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    try:
        torchrun(["--signals-to-handle", ",".join(PASSED_ON), *sys.argv[1:]])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            sys.exit(failure.exitcode)
        print(f"torchrun: process {rank} was ended by {failure.signal_name()}.", file=sys.stderr)
        sys.exit(128 - failure.exitcode)
    except SignalException as signal:
        sys.exit(128 + signal.sigval)


def restarting_agent(base: Any) -> Any:
    """torchrun's agent, which restarts no processes whose status is final, and says when it does.

    Agents of several machines count restarts differently, so the first one gives each a name.
    """

    class Agent(base):  # type: ignore[misc]
        def _start_workers(self, group: Any) -> Any:
            if group.group_rank == 0:
                group.store.set(ATTEMPT, uuid.uuid4().hex)
            os.environ[ATTEMPT] = group.store.get(ATTEMPT).decode()
            return super()._start_workers(group)

        def _monitor_workers(self, group: Any) -> Any:
            result = super()._monitor_workers(group)
            statuses = {failure.exitcode for failure in result.failures.values()}
            if statuses & FINAL:
                self._remaining_restarts = 0
            elif statuses and self._remaining_restarts:
                number = group.spec.max_restarts - self._remaining_restarts + 1
                print(
                    f"torchrun: starting the processes again ({number} of {group.spec.max_restarts}).",
                    file=sys.stderr,
                )
            return result

    return Agent


if __name__ == "__main__":
    main()
