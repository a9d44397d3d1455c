"""Items a minute of the evaluation of a sweep, with one launch and with two at once.

`python benchmarks/evaluation.py [CONFIG] [--project DIR] [--launches 1 2] [--seed-blocks 3]`, after
`dvc repro`, evaluates all networks of the project's sweep, from the beginning for each number of launches
of `edm2 evaluate`, each of which has one thread. It works in a temporary project, whose data and models
are links to those of DIR. An item is a network at one guidance strength, with one seed block. What a
launch takes to start is measured with one that finds all items done.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def make_project(folder: Path, project: Path, seed_blocks: int) -> None:
    """A project with the code of this checkout, the results of `project`, and its params."""
    for name in ("edm2", "stages", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("data", "models"):
        (folder / name).symlink_to(project.resolve() / name)
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["evaluation"]["seed_blocks"] = seed_blocks
    params["runtime"]["threads"] = 1
    yaml.dump(params, folder / "params.yaml")


def start_launch(folder: Path, config: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "DVC_ROOT": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", "from edm2.cli import main; main()", "evaluate", config]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def seconds_of(folder: Path, config: str, launches: int) -> float:
    """Time until all launches have ended.

    Raises:
        SystemExit: one of them failed.
    """
    start = time.perf_counter()
    processes = [start_launch(folder, config) for _ in range(launches)]
    statuses = [process.wait() for process in processes]
    if any(statuses):
        sys.exit(f"edm2 evaluate {config} failed: run it in the project to see why")
    return time.perf_counter() - start


def measure(project: Path, config: str, launches: int, seed_blocks: int) -> dict[str, float]:
    """Items, seconds of all of them, and seconds of the start of a launch."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        make_project(folder, project, seed_blocks)
        seconds = seconds_of(folder, config, launches)
        items = len(list(folder.glob(f".state/fid-{config}/*/items/*.json")))
        return {"items": items, "seconds": seconds, "start": seconds_of(folder, config, launches)}


def table(rows: Sequence[tuple[int, dict[str, float]]]) -> str:
    lines = ["launches  items  seconds  start  items/min  without start  ratio  without start"]
    rates = []
    for launches, row in rows:
        working = row["seconds"] - row["start"]
        rates.append([60 * row["items"] / seconds for seconds in (row["seconds"], working)])
        ratios = [rate / first for rate, first in zip(rates[-1], rates[0], strict=True)]
        lines.append(
            f"{launches:8}  {row['items']:5.0f}  {row['seconds']:7.1f}  {row['start']:5.1f}  "
            f"{rates[-1][0]:9.1f}  {rates[-1][1]:13.1f}  {ratios[0]:5.2f}  {ratios[1]:13.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="G")
    parser.add_argument(
        "--project", type=Path, default=ROOT, help="with results; default: this one"
    )
    parser.add_argument("--launches", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--seed-blocks", type=int, default=3, help="default: 3, as in the paper")
    args = parser.parse_args()
    rows = [
        (launches, measure(args.project, args.config, launches, args.seed_blocks))
        for launches in args.launches
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
