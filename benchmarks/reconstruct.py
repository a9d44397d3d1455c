"""Speed and memory of post-hoc EMA, compared with lower bounds and with a plain loop.

`python benchmarks/reconstruct.py [--millions 31] [--snapshots 64] [--lengths 1 8 31]` writes a store of
random 16-bit snapshots to a temporary folder and prints a table. Each row runs in its own process:

- reconstruct: reconstruction into 16-bit files;
- read: a read of the snapshot files, without computation;
- matrix product: a float32 matrix product of the same shape in memory, on at most 8 GiB of values;
- loop (extrapolated): one multiply-add over all parameters per snapshot and length, then the same files;
  timed on a few snapshots.

Seconds are the median of a few processes: the first one to write so many files waits for memory of the
system.
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
from measurement import peak_gib, run_in_own_process
from safetensors.torch import load_file, save_file

from edm2.ema import Snapshot, SnapshotStore, Target, reconstruct_files, write_snapshot
from edm2.ema.profile import Power
from edm2.ema.solve import solve_profiles

STEP = 8 * 2**20  # images between snapshots
LOOP_SNAPSHOTS = 4  # that the loop is timed on
MAX_PRODUCT_VALUES = 2**31  # that the matrix product is timed on: 8 GiB
TENSOR_VALUES = 2_359_296  # of the largest tensors: a 3×3 convolution with 512 channels


def make_store(folder: Path, snapshots: int, values: int) -> None:
    torch.manual_seed(0)
    sizes = [TENSOR_VALUES] * (values // TENSOR_VALUES) + [values % TENSOR_VALUES or 1]
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
    width = min(values, MAX_PRODUCT_VALUES // len(store.snapshots))
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
    for k, snapshot in enumerate(store.snapshots[: LOOP_SNAPSHOTS + 1]):
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
    return seconds / LOOP_SNAPSHOTS * len(store.snapshots) + time.perf_counter() - start


METHODS = {
    "reconstruct": run_reconstruct,
    "read": run_read,
    "matrix product": run_product,
    "loop (extrapolated)": run_loop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=31.0, help="parameters; default: 31")
    parser.add_argument("--snapshots", type=int, default=64, help="default: 64")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 8, 31])
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        method, folder, count = args.one
        before = peak_gib()
        with tempfile.TemporaryDirectory() as scratch:
            seconds = METHODS[method](Path(folder), int(count), Path(scratch))
        print(json.dumps({"s": seconds, "peak GiB": peak_gib(), "over start": peak_gib() - before}))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), args.snapshots, int(args.millions * 1e6))
        for count in args.lengths:
            for method in METHODS:
                runs = []
                for k in range(args.repeats):
                    os.sync()  # earlier writes must not slow this run down
                    label = f"{count} lengths, {method}, {k + 1} of {args.repeats}"
                    arguments = ["--one", method, folder, str(count)]
                    runs.append(run_in_own_process(__file__, arguments, label))
                rows.append({"lengths": count, "method": method, **pd.DataFrame(runs).median()})
    table = pd.DataFrame(rows)
    print(
        f"{args.snapshots} snapshots of {args.millions:g} million parameters, float16; "
        f"{torch.get_num_threads()} threads"
    )
    print(table.to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
