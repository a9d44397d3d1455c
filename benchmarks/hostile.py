"""Hostile files: seconds, memory and outcome of reading each (tests/faults/hostile_files.py).

    python benchmarks/hostile.py [--root OTHER_CHECKOUT] [--out TABLE.md]

Each file is read in a process of its own, which may use 20 s and 3 GiB more than it has at the start. The
table in docs/security.md is that of this script.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SECONDS, EXTRA_BYTES = 20, 3 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=HERE, help="checkout whose readers are used")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(args.root), str(HERE / "tests"), str(HERE / "tests/faults")]
    from hostile_files import CASES

    import edm2.data.sources.unlabeled
    import edm2.ema.checkpoints
    import edm2.pipeline.published_network  # noqa: F401

    rows = ["| file | seconds | MiB | result |", "| --- | ---: | ---: | --- |"]
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(f"| {name} | {outcome(make(Path(folder)), folder)} |")
        print(rows[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(rows) + "\n", encoding="utf-8")


def outcome(read, folder: str) -> str:
    """Seconds of CPU time, MiB above those at the start, and what came of it."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.write(writing, in_child(read).encode()[:1000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(process, 0)
    seconds = f"{usage.ru_utime + usage.ru_stime:.1f}"
    if not text:
        signal_name = signal.Signals(status & 127).name if status & 127 else "ended"
        reason = (
            "endless"
            if signal_name in ("SIGALRM", "SIGXCPU", "SIGKILL")
            else f"crash: {signal_name}"
        )
        return f"{seconds} | | {reason}"
    memory, _, result = text.partition(" ")
    return f"{seconds} | {memory} | {result.replace(folder, '…').replace('|', '/')}"


def in_child(read) -> str:
    from edm2.params import UserError

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.alarm(SECONDS)
    before = peak()
    try:
        read()
        result = "**accepted**"
    except UserError as error:
        result = f"{str(error).splitlines()[0][:240]}"
    except BaseException as error:
        result = f"**traceback**: {type(error).__name__}"
    return f"{max(0, peak() - before)} {result}"


def peak() -> int:
    """MiB of the process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")
