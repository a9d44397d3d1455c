"""Seconds of each stage: as `edm2 plan --measure` says, and as they are.

`python benchmarks/plan.py FOLDER [--params FILE] [--stages train_vae ...]` makes a project in FOLDER with the
params of FILE (default: the repository's), on one thread, plans it, and runs its stages one after the other.
The table has both, and their ratio; it is also written to FOLDER/plan.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from processes import cpu_seconds
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PLAN = """
import json, os, time
from edm2.params import load
from edm2.planning.dataset import dataset_size
from edm2.planning.plan import Device, Planner
params = load("params.yaml")
clock = getattr(time, {clock!r})
plan = Planner(params, Device(None, None), clock).plan(dataset_size(params, None, None), {{}})
print(json.dumps(plan.as_json()))
"""


def make_project(folder: Path, params: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", "stages", "edm2"):
        (folder / name).symlink_to(ROOT / name)
    tree = YAML(typ="safe").load(params)
    tree["launch"], tree["tracking"]["mlflow"] = "python", False
    tree["runtime"] |= {"device": "cpu", "threads": 1, "workers": 0}
    YAML(typ="safe").dump(tree, folder / "params.yaml")


def run(project: Path, command: list[str], cpu_time: bool) -> tuple[float, str]:
    """Seconds of a command, and what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DVC_ROOT": str(project),
    }
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output, cpu = process.stdout.read(), cpu_seconds(process)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: failed")
    seconds = time.perf_counter() - start
    return cpu if cpu_time else seconds, output


def compare(project: Path, chosen: list[str], cpu_time: bool) -> pd.DataFrame:
    """Planned and measured seconds of each stage; of `chosen` ones, or of all."""
    clock = "process_time" if cpu_time else "perf_counter"
    _, output = run(project, [sys.executable, "-c", PLAN.format(clock=clock)], cpu_time)
    rows: list[dict[str, Any]] = []
    for stage in json.loads(output.splitlines()[-1])["stages"]:
        name, _, config = stage["stage"].partition("@")
        if chosen and name not in chosen:
            continue
        command = [sys.executable, "-m", f"stages.{name}", *([config] if config else [])]
        seconds, _ = run(project, command, cpu_time)
        rows.append({"stage": stage["stage"], "planned": stage["seconds"], "measured": seconds})
        print(rows[-1], file=sys.stderr)
    table = pd.DataFrame(rows)
    total = {"stage": "total", **table[["planned", "measured"]].sum()}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return table.assign(ratio=table["planned"] / table["measured"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--stages", nargs="*", default=[], help="default: all, in their order")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the processor, on busy machines"
    )
    args = parser.parse_args()
    project = args.folder.resolve() / "project"
    if not project.exists():
        make_project(project, args.params)
    table = compare(project, args.stages, args.cpu_time)
    table.to_csv(args.folder / "plan.csv", index=False)
    print(table.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
