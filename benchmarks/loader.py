"""Latents per second that training gets from disk, and how much the reading slows the main thread.

`python benchmarks/loader.py --latents 20000 --workers 2 --latency 0 0.5 1 2` writes latents of 64×64×4 with
random values to a temporary folder and prints, for each order of `runtime.reading` and each latency of the
disk in milliseconds, what one rank reads: without drawing noise, from the page cache. Latency is simulated by
sleeping before each read. The last columns have the mean time of a small operation in the main thread, beside
the loader and without it, and the slowdown; there the main thread takes --rate latents per second.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
import torch

from edm2.data.latents import LatentShards, latent_sample
from edm2.data.shards import OpenShard, write_shard
from edm2.data.stream import stream
from edm2.runtime.manifest import write_manifest

SHAPE, SHARD, CPU = (4, 64, 64), 2000, torch.device("cpu")
QUICK_READ = OpenShard._read
WARMUP = 4  # batches, not timed


def write_latents(folder: Path, count: int) -> None:
    """Shards in which every sample has the same values."""
    mean, std = torch.randn(SHAPE), torch.rand(SHAPE)
    for shard, start in enumerate(range(0, count, SHARD)):
        numbers = range(start, min(start + SHARD, count))
        samples = (latent_sample(f"{n:08d}", mean, std, n % 1000) for n in numbers)
        write_shard(folder / f"train-{shard:06d}.tar", samples)
    ones = [1.0] * SHAPE[0]
    write_manifest(folder, classes=[str(n) for n in range(1000)], shape=SHAPE, mean=ones, std=ones)


@dataclass(frozen=True)
class SlowLatents:
    """Reads latents from a disk that answers after `latency` seconds."""

    dataset: LatentShards
    latency: float

    def __call__(self, numbers: range, indices: list[int]) -> tuple[torch.Tensor, ...]:
        sleep_in_reads(self.latency)
        return self.dataset.batch(indices)


def sleep_in_reads(seconds: float) -> None:
    """From now on, in this process, each read of a shard takes that much longer."""

    def slow_read(shard: OpenShard, begin: int, end: int) -> bytes:
        time.sleep(seconds)
        return QUICK_READ(shard, begin, end)

    OpenShard._read = slow_read if seconds else QUICK_READ


def small_operations(seconds: float) -> float:
    """Mean seconds of a small operation on tensors, over that time."""
    values, count, start = torch.ones(64), 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        for _ in range(20):
            values = values * 0.999
        count += 20
    return (time.perf_counter() - start) / count


def measure(folder: Path, args: argparse.Namespace, reading: str, latency: float) -> dict[str, Any]:
    runtime = SimpleNamespace(workers=args.workers, reading=reading)
    read = SlowLatents(LatentShards(folder, "train"), latency / 1000)
    batches = stream(read, args.batch, 0, 0, runtime, CPU)
    for _ in range(WARMUP):
        next(batches)
    start, count, cpu = time.perf_counter(), 0, time.process_time()
    while time.perf_counter() - start < args.seconds:
        next(batches)
        count += args.batch
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    beside = []
    for _ in range(int(args.seconds * args.rate / args.batch)):  # as in a training
        next(batches)
        beside.append(small_operations(args.batch / args.rate))
    batches.close()
    alone = small_operations(args.seconds)
    return {
        "reading": reading,
        "latency ms": latency,
        "latents/s": count / elapsed,
        "main CPU µs/latent": cpu / count * 1e6,
        "beside µs": mean(beside) * 1e6,
        "alone µs": alone * 1e6,
        "slowdown": f"{mean(beside) / alone - 1:+.0%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=2000.0, help="latents/s beside operations")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_latents(Path(name), args.latents)
        rows = [
            measure(Path(name), args, reading, latency)
            for reading in ("random", "blocks")
            for latency in args.latency
        ]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
