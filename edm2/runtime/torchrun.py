"""torchrun without its report of a failure: what the processes say is all that is printed.

    launch: python -m edm2.runtime.torchrun --nproc_per_node=8

Options are those of torchrun. The exit status is that of the process that failed first.
"""

import logging
import sys


def main() -> None:
    logging.disable(logging.ERROR)  # of torchrun; the processes have their own logs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            sys.exit(failure.exitcode)
        print(f"torchrun: process {rank} was ended by {failure.signal_name()}.", file=sys.stderr)
        sys.exit(128 - failure.exitcode)
    except SignalException as signal:
        sys.exit(128 + signal.sigval)


if __name__ == "__main__":
    main()
