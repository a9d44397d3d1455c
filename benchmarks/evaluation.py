"""Items a minute of the evaluation of a sweep, with one launch and with two at once.

`python benchmarks/evaluation.py [TRAINING] [--project DIR] [--launches 1 2] [--seed-blocks 3]`, after
`dvc repro`, evaluates all networks of the project's sweep, from the beginning for each number of launches
of `edm2 evaluate`, each of which has one thread. It works in a temporary project, whose data and models
are links to those of DIR. An item is a network at one guidance strength, with one seed block. What a
launch takes to start is measured with one that finds all items done. CPU seconds are those of the launch with
the most: their ratio is what launches would gain on cores of their own, also where others use them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from processes import cpu_seconds
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


def start_launch(folder: Path, training: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "DVC_ROOT": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", "from edm2.cli import main; main()", "evaluate", training]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def run_launches(folder: Path, training: str, launches: int) -> tuple[float, float]:
    """Seconds until all launches have ended, and the CPU seconds of the one with the most."""
    start = time.perf_counter()
    processes = [start_launch(folder, training) for _ in range(launches)]
    longest = max(list(map(cpu_seconds, processes)))
    if any(process.returncode for process in processes):
        sys.exit("edm2 evaluate failed: run it in the project to see why")
    return time.perf_counter() - start, longest


def measure(project: Path, training: str, launches: int, seed_blocks: int) -> dict[str, float]:
    """Items; seconds of all of them, also of CPU; seconds of a start."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        make_project(folder, project, seed_blocks)
        seconds, cpu = run_launches(folder, training, launches)
        items = len(list(folder.glob(f".state/fid-{training}/*/items/*.json")))
        start, _ = run_launches(folder, training, launches)
        return {"items": items, "seconds": seconds, "start": start, "CPU seconds": cpu}


def table(rows: Sequence[tuple[int, dict[str, float]]]) -> pd.DataFrame:
    """By number of launches: items per minute, with and without the start, and their ratios to the first."""
    measured = pd.DataFrame([row for _, row in rows], index=[launches for launches, _ in rows])
    measured["items/min"] = 60 * measured["items"] / measured["seconds"]
    measured["without start"] = 60 * measured["items"] / (measured["seconds"] - measured["start"])
    for column in ("items/min", "without start"):
        measured[f"ratio of {column}"] = measured[column] / measured[column].iloc[0]
    measured["ratio by CPU"] = measured["CPU seconds"].iloc[0] / measured["CPU seconds"]
    return measured.rename_axis("launches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", nargs="?", default="G-0")
    parser.add_argument(
        "--project", type=Path, default=ROOT, help="with results; default: this one"
    )
    parser.add_argument("--launches", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--seed-blocks", type=int, default=3, help="default: 3, as in the paper")
    args = parser.parse_args()
    rows = [
        (launches, measure(args.project, args.training, launches, args.seed_blocks))
        for launches in args.launches
    ]
    print(table(rows).round(2).to_string())


if __name__ == "__main__":
    main()
