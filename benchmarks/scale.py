"""Growth of every stage with the number of images: wall time, CPU time and peak memory.

`python benchmarks/scale.py FOLDER [--images 50000 100000 200000] [--classes 1000] [--ranks 2]` makes JPEG
files in class folders below FOLDER and runs all stages on them, with tiny networks and on several ranks, once
for each number of images. With the largest number, `prepare` and `train_diffusion` are killed (SIGKILL) in
the middle and started again; of the killed part, only the time of the launcher counts as CPU time. The table
is also written to FOLDER/scale.csv.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
CONFIG = "G"
SIDE = 80  # pixels of the files, which are resized to RESOLUTION
RESOLUTION = 64
CHANGES: dict[str, Any] = {
    "dataset.source": "folder",
    "dataset.path": "images",
    "dataset.resolution": RESOLUTION,
    "dataset.held_out": 0.05,
    "dataset.shard_images": 4096,
    "features.channels": 8,
    "features.dims": 16,
    "features.duration_nimg": 3840,
    "vae.channels": 8,
    "vae.channel_mult": [1, 2, 2],
    "vae.duration_nimg": 1280,
    "vae.warmup_nimg": 256,
    "vae.evaluate_nimg": 1280,
    "diffusion.channels": 8,
    "diffusion.attention_resolutions": [8],
    "diffusion.duration_nimg": 25600,
    "diffusion.magnitudes_nimg": 25600,
    "diffusion.lr_rampup_nimg": 6400,
    "sweep.ema_lengths": [0.05, 0.1, 0.2],
    "sampling.steps": 4,
    "sampling.batch": 100,
    "evaluation.samples": 500,
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "tracking.mlflow": False,
}
# stages that are killed, and the pattern of files in their state whose presence says that work is done
KILLED = {
    "prepare": "prepare/*/results/data/images/train-000003.tar",
    "train_diffusion": f"train_diffusion-{CONFIG}/*/checkpoint*",
}


@dataclass(frozen=True)
class Usage:
    """What a stage took, over all of its processes; `peak_mib` is that of the largest one."""

    images: int
    stage: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    kills: int


def write_images(folder: Path, images: int, classes: int) -> None:
    """JPEG files of smooth random colors: a pattern for each class, and one for each image."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(60, 196, (classes, 4, 4, 3))
    for label in range(classes):
        (folder / f"n{label:08d}").mkdir(parents=True, exist_ok=True)
    for k in range(images):
        path = folder / f"n{k % classes:08d}/{k:08d}.jpg"
        if not path.exists():
            own = np.random.default_rng(k).uniform(-60, 60, (4, 4, 3))
            small = Image.fromarray((patterns[k % classes] + own).astype(np.uint8))
            buffer = io.BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "jpeg")
            path.write_bytes(buffer.getvalue())


def make_project(folder: Path, source: Path, ranks: int) -> None:
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", "stages", "edm2"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "images").symlink_to(source)
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    launch = f"python -m edm2.runtime.torchrun --standalone --nproc_per_node={ranks}"
    for key, value in {**CHANGES, "launch": launch if ranks > 1 else "python"}.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    YAML(typ="safe").dump(tree, folder / "params.yaml")


def commands() -> Iterator[tuple[str, list[str]]]:
    """The stages and their commands, in the order of dvc.yaml, which is one in which they can run."""
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        words = stage["cmd"].split()
        yield name, [sys.executable, *words[1:], *([CONFIG] if "matrix" in stage else [])]


def run(project: Path, command: list[str], kill_at: str) -> tuple[float, float, float, int]:
    """Run a command, twice if it is killed.

    Args:
        kill_at: pattern of files below .state; when one exists, the command is killed, once.

    Returns:
        seconds, CPU seconds, peak memory in MiB, number of kills.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["DVC_ROOT"] = str(project)
    seconds = cpu = peak = 0.0
    for kills in range(2):
        start = time.perf_counter()
        with (project / "log.txt").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=project,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        killed = bool(kill_at) and not kills and _kill(process, project / ".state", kill_at)
        _, status, usage = os.wait4(process.pid, 0)
        seconds += time.perf_counter() - start
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / 1024)
        if not killed:
            break
    if status:
        sys.exit(f"{' '.join(command)}: failed; see {project / 'log.txt'}")
    return seconds, cpu, peak, kills


def _kill(process: subprocess.Popen[bytes], state: Path, pattern: str) -> bool:
    """Kill all processes of a command as soon as the file is there; whether it was in time."""
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if any(state.glob(pattern)):
            os.killpg(process.pid, signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def measure(folder: Path, images: int, classes: int, ranks: int, kill: bool) -> list[Usage]:
    write_images(folder / "images", images, classes)
    project = folder / f"project-{images}"
    make_project(project, folder / "images", ranks)
    rows = []
    for stage, command in commands():
        pattern = KILLED.get(stage, "") if kill else ""
        rows.append(Usage(images, stage, *run(project, command, pattern)))
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    folder, counts = args.folder.resolve(), sorted(args.images)
    rows = [
        row
        for count in counts
        for row in measure(folder, count, args.classes, args.ranks, count == counts[-1])
    ]
    table = pd.DataFrame([asdict(row) for row in rows])
    table.to_csv(folder / "scale.csv", index=False)
    for value in ("seconds", "cpu_seconds", "peak_mib"):
        print(f"\n{value}")
        wide = table.pivot(index="stage", columns="images", values=value)
        print(wide.loc[table["stage"].unique()].round(1).to_string())


if __name__ == "__main__":
    main()
