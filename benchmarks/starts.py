"""What a start costs on n, 2n and 4n latents: seconds and bytes read, by each of several processes.

`python benchmarks/starts.py [--latents N] [--processes K]` writes latents of 64×64×4 into a temporary
folder (one repeated latent, 1000 a shard, 67 MB a shard) and opens them in K processes at once. Beside
that is what starts did before indices were stored: every process read the header of every file.
`--shape C H W` makes smaller latents. For cold caches, drop them before
(`echo 3 > /proc/sys/vm/drop_caches`).
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

SHARD = 1000  # latents


def write_latents(folder: Path, count: int, shape: list[int]) -> None:
    import torch

    from edm2.data.latents import latent_sample
    from edm2.data.shards import write_shard
    from edm2.runtime.manifest import write_manifest

    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(2, *shape, generator=generator).abs()
    sample = latent_sample("", mean, std, 0)
    for start in range(0, count, SHARD):
        keys = range(start, min(start + SHARD, count))
        samples = ({**sample, "__key__": f"{key:08d}"} for key in keys)
        write_shard(folder / f"train-{start // SHARD:06d}.tar", samples)
    metadata = {"shape": shape, "mean": [0.0] * shape[0], "std": [1.0] * shape[0]}
    write_manifest(folder, classes=["0"], **metadata)


def bytes_read() -> int:
    """Of this process, by read system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def measure(way: str, folder: Path) -> dict[str, Any]:
    """Seconds, CPU seconds and bytes of a start, and of the first batch of 256 after it."""
    from edm2.data.latents import LatentShards
    from edm2.data.order import RandomOrder

    results = {}
    clocks = time.perf_counter(), time.process_time(), bytes_read()
    if way == "headers":
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                positions = [(member.offset_data, member.size) for member in tar]
        count = len(positions)
    else:
        latents = LatentShards(folder, "train")
        count = len(latents)
    results["start"] = _since(*clocks)
    if way != "headers":
        order = RandomOrder(count, 0)
        order.indices(range(1))  # the permutation
        clocks = time.perf_counter(), time.process_time(), bytes_read()
        latents.batch(order.indices(range(256)))
        results["first batch"] = _since(*clocks)
    return results


def _since(wall: float, cpu: float, read: int) -> dict[str, float]:
    return {
        "seconds": time.perf_counter() - wall,
        "CPU s": time.process_time() - cpu,
        "MB read": (bytes_read() - read) / 1e6,
    }


def in_processes(count: int, way: str, folder: Path) -> dict[str, Any]:
    """The largest values of `count` processes that start together."""
    command = [sys.executable, __file__, "--measure", way, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    results = [json.loads(process.communicate()[0]) for process in started]
    return {
        part: {key: max(result[part][key] for result in results) for key in values}
        for part, values in results[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=50_000, metavar="N")
    parser.add_argument("--processes", type=int, default=2, metavar="K")
    parser.add_argument("--shape", type=int, nargs=3, default=[4, 64, 64], metavar=("C", "H", "W"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    print(
        f"{'latents':>8} {'processes':>9}  {'what':22} {'seconds':>8} {'CPU s':>8} {'MB read':>9}"
    )
    for count in (args.latents, 2 * args.latents, 4 * args.latents):
        with tempfile.TemporaryDirectory() as folder:
            write_latents(Path(folder), count, args.shape)
            for way in ("index", "headers"):
                for part, values in in_processes(args.processes, way, Path(folder)).items():
                    numbers = (
                        f"{values['seconds']:8.3f} {values['CPU s']:8.3f} {values['MB read']:9.2f}"
                    )
                    print(
                        f"{count:8} {args.processes:9}  {f'{part} ({way})':22} {numbers}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
