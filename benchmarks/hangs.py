"""How long a launch of two ranks runs on after one of them fails, is killed, stops or does not arrive.

`python benchmarks/hangs.py [CASE ...] [--launcher MODULE ...]` starts each case under each launcher, and
prints the seconds from the event to the end of the launch and of its processes, its exit status, and
what it prints first. In the cases `stop` and `late` the others wait for `--timeout` minutes, as
runtime.timeout_minutes sets it; torchrun needs another 30 seconds to end a stopped process.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

LAUNCHERS = ("edm2.runtime.torchrun", "torch.distributed.run")
CASES = {
    "error": "a user's error in the middle of a step",
    "bug": "a traceback in the middle of a step",
    "kill": "SIGKILL",
    "stop": "SIGSTOP",
    "late": "one rank does not arrive",
    "signal": "SIGUSR1 to one rank that computes, outside of a training",
}
STEPS_BEFORE = 20


def run_rank(case: str, timeout: float) -> None:
    """Steps of a tiny training, which end in rank 1 as the case says."""
    import torch

    from edm2.params import UserError
    from edm2.runtime.distributed import all_reduce, process_group, ranks
    from edm2.runtime.failures import report
    from edm2.runtime.interruption import Interrupted, exit_at_once, raise_at_signals
    from edm2.runtime.parallel import data_parallel

    def event() -> None:
        print(f"event {time.time()}", file=sys.stderr, flush=True)
        if case == "error":
            raise UserError("/data/x.tar: not a tar file.")
        if case == "bug":
            raise ZeroDivisionError("a bug")
        if case == "late":
            time.sleep(1e6)
        os.kill(os.getpid(), getattr(signal, {"signal": "SIGUSR1"}.get(case, f"SIG{case.upper()}")))

    raise_at_signals()
    try:
        with process_group(torch.device("cpu"), timeout):
            network = data_parallel(torch.nn.Linear(8, 8), torch.device("cpu"))
            for step in range(10**9):
                network(torch.ones(1, 8)).sum().backward()
                if step == STEPS_BEFORE and ranks().rank == 1:
                    event()
                all_reduce(torch.tensor([step]))
    except (Exception, Interrupted) as error:
        exit_at_once(report("training", error))


def measure(case: str, launcher: str, timeout: float) -> str:
    command = [sys.executable, "-m", launcher, "--nproc_per_node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", __file__, "--rank", case, "--timeout", str(timeout)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    text = process.stderr.read()  # its end: the launcher and all its processes have ended
    end, status = time.time(), process.wait()
    event = re.search(r"^event (.*)$", text, re.MULTILINE)
    if event is None:
        return f"failed: {text.strip().splitlines()[-1:]}"
    lines = text[event.end() :].strip().splitlines()
    first = next((line for line in lines if "Gloo" not in line), "")
    return f"{end - float(event[1]):8.1f} {status:6}  {first[:90]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: {' '.join(CASES)}")
    parser.add_argument("--launcher", nargs="+", default=LAUNCHERS, metavar="MODULE")
    parser.add_argument("--timeout", type=float, default=0.2, metavar="MINUTES")
    parser.add_argument("--rank", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        run_rank(args.rank, args.timeout)
        return
    print(f"{'case':8} {'launcher':22} {'seconds':>8} {'status':>6}  prints first")
    for case in args.cases or CASES:
        for launcher in args.launcher:
            print(f"{case:8} {launcher:22} {measure(case, launcher, args.timeout)}", flush=True)


if __name__ == "__main__":
    main()
