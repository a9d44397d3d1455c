"""How often two ranks save, how much of the time the training stalls, and seconds per GB of a save.

`python benchmarks/checkpoints.py [--interval S] [--save S] [--mb N]` trains steps of 0.2 s on two gloo
ranks, whose saves are slowed down to S seconds by a sleep in the write. Then it saves and reads a state
of N MB, the weights and moments of Adam. `--repository PATH` measures another checkout, of any
commit since 569e707.
"""

import argparse
import importlib.util
import inspect
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from processes import on_two_ranks

STEP_SECONDS = 0.2
BATCH = 4


class Sleeper:
    """A task whose steps take a fixed time."""

    def __init__(self) -> None:
        import torch

        self.starts: list[float] = []
        self.weight = torch.zeros(1000)

    def step(self, batch: int, nimg: int) -> dict[str, float]:
        self.starts.append(time.monotonic())
        time.sleep(STEP_SECONDS)
        self.weight += 1
        return {"loss": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight.copy_(state["weight"])


def steps(nimg: int) -> Iterator[int]:
    while True:
        yield nimg


def train_seconds(seconds: float, interval: float, name: str) -> list[float]:
    """Starts of the steps of a training that takes `seconds` without saves."""
    from edm2.params.section import Training
    from edm2.runtime.log import Log
    from edm2.runtime.loop import train
    from edm2.runtime.state import open_state
    from edm2.runtime.tracking import Run

    count = int(seconds / STEP_SECONDS)
    schedule = Training(batch=BATCH, duration_nimg=BATCH * count, log_nimg=BATCH * count)
    options = {"checkpoint_seconds": interval, "nonfinite_patience": None, "remedy": ""}
    known = inspect.signature(train).parameters
    task = Sleeper()
    with open_state("toy", name) as state:
        run = Run(Log(state.folder / f"{os.environ['RANK']}.jsonl"), None)
        accepted = {key: value for key, value in options.items() if key in known}
        train("toy", task, steps, schedule, state, run, **accepted)  # type: ignore[arg-type]
    return task.starts


def slow_down(seconds: float) -> list[float]:
    """Let each write take this long; the list gets their times."""
    parts = "edm2.runtime.checkpoint_parts"
    name = parts if importlib.util.find_spec(parts) else "edm2.runtime.checkpoint"
    module: Any = importlib.import_module(name)
    write, times = module.save_file, list[float]()

    def write_slowly(*args: Any) -> Any:
        times.append(time.monotonic())
        time.sleep(seconds)
        return write(*args)

    module.save_file = write_slowly
    return times


def stalls(args: argparse.Namespace) -> dict[str, float]:
    """Saves and stalls between the first step and the last."""
    train_seconds(STEP_SECONDS, 1e9, "imports")
    plain = train_seconds(2.0, 1e9, "plain")
    typical = statistics.median(b - a for a, b in itertools.pairwise(plain))
    times = slow_down(args.save)
    starts = train_seconds(args.seconds, args.interval, "saving")
    total = starts[-1] - starts[0]
    gaps = [b - a for a, b in itertools.pairwise(times)] or [math.inf]  # of rank 0
    return {
        "steps": len(starts),
        "saves": len(times),
        "seconds": total,
        "seconds between saves": statistics.mean(gaps[:-1] or gaps),  # not that at the end
        "stalled": 1 - (len(starts) - 1) * typical / total,
    }


def state_of(megabytes: float) -> dict[str, Any]:
    """Weights and moments, tensors of 4 MB."""
    import torch

    count = max(1, round(megabytes / 12))
    return {
        name: {f"layer{k}": torch.full((1000, 1000), float(k)) for k in range(count)}
        for name in ("weights", "exp_avg", "exp_avg_sq")
    }


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the wall clock, and of the CPUs of this rank, until both ranks have done it."""
    from edm2.runtime.distributed import barrier

    barrier()
    before = time.monotonic(), time.process_time()
    call()
    barrier()
    return time.monotonic() - before[0], time.process_time() - before[1]


def resident_gb() -> float:
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmRSS:")[2].split()[0]) / 1e6


def saves(state: Any, tree: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Times of saves: of the training's stall, where saves are in the background, and of the whole."""
    try:
        from edm2.runtime.checkpointing import checkpointing
    except ImportError:  # an older checkout, in which rank 0 saves
        main = os.environ["RANK"] == "0"
        return {"save": measured(lambda: state.save(1, tree) if main else None)}
    results = {}
    with checkpointing(state, 1e9) as checkpointer:
        for nimg, name in enumerate(("stall of the first", "stall")):
            results[name] = measured(lambda nimg=nimg: checkpointer.save(nimg, tree))  # type: ignore[misc]
            checkpointer.wait()

        def save() -> None:
            checkpointer.save(2, tree)
            checkpointer.wait()

        results["save"] = measured(save)
    return results


def costs(args: argparse.Namespace) -> dict[str, float]:
    """Seconds per GB of what both ranks do together, and memory of what is read."""
    from edm2.runtime.state import open_state

    tree, loaded = state_of(args.mb), list[Any]()
    gigabytes = sum(t.nbytes for part in tree.values() for t in part.values()) / 1e9
    with open_state("toy", "costs") as state:
        into = [state_of(args.mb)] if "into" in inspect.signature(state.restore).parameters else []
        results = saves(state, tree)
        before = resident_gb()
        results["read"] = measured(lambda: loaded.append(state.restore(*into)))
    numbers = {
        f"{name}, {unit}/GB": value / gigabytes
        for name, pair in results.items()
        for unit, value in zip(("s", "CPU s"), pair, strict=True)
    }
    return numbers | {"memory of what is read, GB/GB": (resident_gb() - before) / gigabytes}


def on_rank(args: argparse.Namespace) -> None:
    import torch

    from edm2.runtime.distributed import process_group

    torch.set_num_threads(1)
    has_timeout = len(signature(process_group).parameters) > 1  # 569e707 has none
    with process_group(torch.device("cpu"), *([10.0] if has_timeout else [])):
        result = stalls(args) if args.measure == "stalls" else costs(args)
    print(json.dumps(result))


def on_ranks(args: argparse.Namespace, what: str) -> dict[str, float]:
    """The measurement of rank 0."""
    options = [f"--{key}={getattr(args, key)}" for key in ("interval", "save", "seconds", "mb")]
    with tempfile.TemporaryDirectory() as folder:
        variables = {"PYTHONPATH": args.repository, "DVC_ROOT": folder}
        row: dict[str, float] = on_two_ranks(
            __file__, [*options, "--measure", what], variables, Path(folder)
        )
        return row


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=float, default=1.0, help="runtime.checkpoint_seconds")
    parser.add_argument("--save", type=float, default=1.5, help="seconds that a write sleeps")
    parser.add_argument("--seconds", type=float, default=12.0, help="of steps")
    parser.add_argument("--mb", type=float, default=480.0, help="of the state to save and read")
    parser.add_argument("--repository", default=str(Path(__file__).parent.parent))
    parser.add_argument("--measure", choices=["stalls", "costs"], help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.measure:
        on_rank(args)
        return
    row = on_ranks(args, "stalls")
    print(
        f"{row['steps']} steps in {row['seconds']:.1f} s: {row['saves']} saves, one per "
        f"{row['seconds between saves']:.2f} s; stalled {row['stalled']:.1%}"
    )
    for key, value in on_ranks(args, "costs").items():
        print(f"{key:32} {value:8.3f}")


if __name__ == "__main__":
    main()
