"""Speed and memory of post-hoc EMA, beside what bounds it and what one would write without it.

`python benchmarks/reconstruct.py [--millions 31] [--snapshots 64] [--lengths 1 8 31]` makes a store of
random 16-bit snapshots in a temporary folder and prints a table. Each row is a process of its own:
reconstruction into 16-bit files; a plain read of the same files; a float32 matrix product of the same
shape on values in memory (of up to 8 GiB of them); and the plain loop, one multiply-add over all parameters
per snapshot and length, and the same files in the end (timed on a few snapshots, and extrapolated).
Seconds are the median of a few such processes: the first to write so many files waits for memory that
the system has yet to find.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
import torch
from alone import alone, peak_gib
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, Target, reconstruct_files, write_snapshot
from edm2.ema.profile import Power
from edm2.ema.solve import solve_profiles

STEP = 8 * 2**20  # images between snapshots
IN_LOOP = 4  # snapshots that the plain loop is timed on
IN_PRODUCT = 2**31  # values that the matrix product is timed on, at most: 8 GiB
TENSOR = 2_359_296  # values of the largest tensors, a 3×3 convolution of 512 channels


def make_store(folder: Path, snapshots: int, values: int) -> None:
    torch.manual_seed(0)
    sizes = [TENSOR] * (values // TENSOR) + [values % TENSOR or 1]
    for k in range(snapshots):
        tensors = {f"layer{i}.weight": torch.randn(size) for i, size in enumerate(sizes)}
        length = (0.05, 0.10)[k % 2]
        write_snapshot(folder, Snapshot.power((k // 2 + 1) * STEP, length), tensors, [])


def lengths(count: int) -> list[float]:
    return [round(0.1 if count == 1 else 0.02 + 0.23 * k / (count - 1), 4) for k in range(count)]


def run_reconstruct(folder: Path, count: int, scratch: Path) -> float:
    store = SnapshotStore(folder)
    targets = {scratch / f"{s}.safetensors": Target(s + 0.001, None) for s in lengths(count)}
    start = time.perf_counter()
    reconstruct_files(store, targets, torch.float16)
    return time.perf_counter() - start


def run_read(folder: Path, count: int, scratch: Path) -> float:
    start = time.perf_counter()
    buffer = bytearray(2**22)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def run_product(folder: Path, count: int, scratch: Path) -> float:
    store = SnapshotStore(folder)
    values = sum(t.numel() for t in load_file(store.path(store.snapshots[0])).values())
    width = min(values, IN_PRODUCT // len(store.snapshots))
    data = torch.randn(len(store.snapshots), width)
    weights = torch.randn(count, len(store.snapshots))
    weights @ data[:, :1000]  # starts the threads
    start = time.perf_counter()
    weights @ data
    return (time.perf_counter() - start) * values / width


def run_loop(folder: Path, count: int, scratch: Path) -> float:
    store = SnapshotStore(folder)
    targets = [Power(store.end, s) for s in lengths(count)]
    weights, _ = solve_profiles([s.profile for s in store.snapshots], targets)
    sums: list[dict[str, torch.Tensor]] = [{} for _ in targets]
    seconds = 0.0
    for k, snapshot in enumerate(store.snapshots[: IN_LOOP + 1]):
        start = time.perf_counter()
        for name, tensor in load_file(store.path(snapshot)).items():
            values = tensor.float()
            for total, weight in zip(sums, weights[k], strict=True):
                if name in total:
                    total[name].add_(values, alpha=float(weight))
                else:
                    total[name] = values * float(weight)
        if k:  # the first one allocates
            seconds += time.perf_counter() - start
    start = time.perf_counter()
    for k, total in enumerate(sums):
        save_file({name: values.half() for name, values in total.items()}, scratch / str(k))
    return seconds / IN_LOOP * len(store.snapshots) + time.perf_counter() - start


WAYS = {
    "reconstruct": run_reconstruct,
    "plain read": run_read,
    "matrix product": run_product,
    "plain loop (extrapolated)": run_loop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=31.0, help="parameters; default: 31")
    parser.add_argument("--snapshots", type=int, default=64, help="default: 64")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 8, 31])
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        way, folder, count = given.one
        before = peak_gib()
        with tempfile.TemporaryDirectory() as scratch:
            seconds = WAYS[way](Path(folder), int(count), Path(scratch))
        print(json.dumps({"s": seconds, "peak GiB": peak_gib(), "over start": peak_gib() - before}))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), given.snapshots, int(given.millions * 1e6))
        for count in given.lengths:
            for way in WAYS:
                runs = []
                for k in range(given.repeats):
                    os.sync()  # what was written before is not to be written now
                    runs.append(
                        alone(
                            __file__,
                            ["--one", way, folder, str(count)],
                            f"{count} lengths, {way}, {k + 1} of {given.repeats}",
                        )
                    )
                rows.append({"lengths": count, "way": way, **pd.DataFrame(runs).median()})
    table = pd.DataFrame(rows)
    print(
        f"{given.snapshots} snapshots of {given.millions:g} million parameters, float16; "
        f"{torch.get_num_threads()} threads"
    )
    print(table.to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
