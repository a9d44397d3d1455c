"""Kills a random process of a training on two ranks again and again, and compares the result.

`python benchmarks/restarts.py [--kills N]` trains the denoiser of the tests' tiny project twice under
`python -m edm2.runtime.torchrun --max-restarts=N`: undisturbed, and with a SIGKILL to one of the two
processes, N times, each after a checkpoint since the start before. It prints when each kill came and what
is equal: every file of the result, bit for bit, the curves, and the number of MLflow runs, one.
"""

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

STAGES = ("prepare", "train_features", "train_vae", "encode_latents")
OUTS = ("models/diffusion/G-0", "reports/training/G-0.csv")


def make_inputs(folder: Path) -> Path:
    """A project with everything that the training of the denoiser reads."""
    from tiny import TINY, entered, make_project, run_stage

    changes = {
        **TINY,
        "diffusion.duration_nimg": 6400,  # 100 steps
        "ema.snapshot_nimg": 1280,
        "runtime.checkpoint_seconds": 0,
        "runtime.workers": 0,
        "tracking.mlflow": True,
    }
    make_project(folder, changes)
    with entered(folder):
        for stage in STAGES:
            run_stage(stage)
    return folder


class Launch:
    """A training on two ranks, in a project of its own."""

    def __init__(self, folder: Path, inputs: Path, restarts: int) -> None:
        shutil.copytree(inputs, folder, symlinks=True)
        for leftover in (".state", ".mlflow"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        self.folder = folder
        command = [sys.executable, "-m", "edm2.runtime.torchrun", "--nproc_per_node=2"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        command += [f"--max-restarts={restarts}", "-m", "stages.train_diffusion", "G"]
        variables = {"DVC_ROOT": str(folder), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env={**os.environ, **variables})

    def ranks(self) -> list[int]:
        """The processes of the ranks."""
        parent = self.process.pid
        return [
            int(child)
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ]

    def checkpoints(self) -> set[str]:
        folder = self.folder / ".state/train_diffusion-G-0"
        return {path.name for path in folder.glob("*/checkpoint-*")}

    def wait_for_progress(self, since: set[str]) -> bool:
        """Whether there is a checkpoint that was not there before; False if all has ended."""
        while self.process.poll() is None:
            if self.checkpoints() - since:
                return True
            time.sleep(0.01)
        return False

    def runs(self) -> list[tuple[str, str]]:
        """Name and status of the training's runs in MLflow."""
        with sqlite3.connect(self.folder / ".mlflow/mlflow.db") as store:
            query = "select name, status from runs where name like 'train_diffusion%'"
            return store.execute(query).fetchall()


def kill_again_and_again(launch: Launch, kills: int, seed: int) -> int:
    """How many kills there were, until the training was complete."""
    rng, begin = random.Random(seed), time.monotonic()
    for number in range(kills):
        if not launch.wait_for_progress(launch.checkpoints()):
            return number
        time.sleep(rng.uniform(0, 0.3))
        rank = rng.randrange(2)
        latest = max(launch.checkpoints(), default="")
        os.kill(launch.ranks()[rank], 9)
        seconds = time.monotonic() - begin
        print(f"kill {number + 1:2}: rank {rank} after {seconds:6.1f} s, at {latest}", flush=True)
        wait_for_end(launch, launch.ranks())
    return kills


def wait_for_end(launch: Launch, ranks: list[int]) -> None:
    """Until none of the processes is left."""
    while set(launch.ranks()) & set(ranks) and launch.process.poll() is None:
        time.sleep(0.02)


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all outs."""
    paths = [path for out in OUTS for path in [folder / out, *(folder / out).rglob("*")]]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = make_inputs(folder / "inputs")
        undisturbed = Launch(folder / "undisturbed", inputs, 0)
        assert undisturbed.process.wait() == 0
        killed = Launch(folder / "killed", inputs, args.kills)
        count = kill_again_and_again(killed, args.kills, args.seed)
        status = killed.process.wait()
        expected, ours = files(undisturbed.folder), files(killed.folder)
        equal = sum(ours.get(path) == content for path, content in expected.items())
        print(f"{count} kills, exit status {status}")
        print(f"{equal} of {len(expected)} files are equal, {len(ours)} were written")
        print(f"runs in MLflow: {killed.runs()}; undisturbed: {undisturbed.runs()}")
        sys.exit(not (status == 0 and ours == expected and len(killed.runs()) == 1))


if __name__ == "__main__":
    main()
