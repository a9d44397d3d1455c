"""Sampler and training step of this checkout beside those of another one.

`python benchmarks/speed.py --against PATH` runs config G in both trees in turn, each time in a new
process: 11 evaluations of Heun's method (6 steps) and training steps (forced norms, loss, gradients,
Adam, two averages), in fp32 on the CPU. It prints the seconds of each tree, of the wall clock and of
the CPU (user and system, all threads), as minimum and median over all rounds, and their ratios. Meant
for a quiet machine; on a busy one take the CPU's time with `--threads 1`, because threads that wait
for each other take CPU time as well. Works with commits from 569e707 on.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PARTS = ("sampler", "step")


def configs() -> Any:
    """The training configs, which an older tree has elsewhere."""
    try:
        from edm2.params.configs import CONFIGS
    except ImportError:
        from edm2.diffusion.ladder import LADDER as CONFIGS
    return CONFIGS


def sampler(args: argparse.Namespace) -> Callable[[], object]:
    """Sampling as the pipeline does it: in the form for inference, if the tree has one."""
    import torch

    from edm2.diffusion import build_denoiser
    from edm2.sampling import heun

    denoiser = build_denoiser("G", channels=args.channels, resolution=args.resolution)
    denoise: Any = denoiser.eval().requires_grad_(False)
    with contextlib.suppress(ImportError):
        from edm2.diffusion.inference import prepare_for_inference

        denoise = prepare_for_inference(denoiser)
    noise = torch.randn(args.batch, 4, args.resolution, args.resolution)
    labels = torch.arange(args.batch) % 1000
    return lambda: heun(lambda x, sigma: denoise(x, sigma, labels), noise, steps=6)


def step(args: argparse.Namespace) -> Callable[[], object]:
    import torch

    import edm2
    from edm2.diffusion import build_denoiser
    from edm2.diffusion.training import DenoiserTask
    from edm2.ema import PowerEMA
    from edm2.params import load

    denoiser = build_denoiser(
        replace(configs()["G"], batch=args.batch),
        channels=args.channels,
        resolution=args.resolution,
    )
    params = load(Path(edm2.__path__[0]).parent / "params.yaml").diffusion.model_copy(
        update={"microbatch": None, "magnitudes_nimg": 10**12, "conditional": True}
    )
    average = PowerEMA(denoiser.unet, [0.05, 0.10])
    task = DenoiserTask(denoiser, average, params, 0, torch.device("cpu"))
    data = 0.5 * torch.randn(args.batch, 4, args.resolution, args.resolution)
    labels = torch.arange(args.batch) % 1000
    batch = data, torch.randn_like(data), torch.randn(args.batch), labels
    nimg = [0]

    def one_step() -> None:
        nimg[0] += args.batch
        task.step(batch, nimg[0])

    return one_step


def measure(args: argparse.Namespace) -> list[tuple[float, float]]:
    """Seconds of the wall clock and of the CPU of each repetition of `args.one`, after a first one."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with contextlib.suppress(ImportError):  # as `pick_device` does
        from edm2.runtime.memory import keep_freed_memory

        keep_freed_memory()
    run = {"sampler": sampler, "step": step}[args.one](args)
    run()
    seconds = []
    for _ in range(args.repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return seconds


def in_tree(tree: Path, part: str, arguments: list[str]) -> list[tuple[float, float]]:
    """`measure` in a new process that imports edm2 from `tree`."""
    command = [sys.executable, __file__, *arguments, "--one", part]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    process = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(f"{tree}: {part} failed:\n{process.stderr}")
    seconds: list[tuple[float, float]] = json.loads(process.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout; default: this tree alone")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3, help="in each process; default: 3")
    parser.add_argument("--rounds", type=int, default=3, help="of both trees in turn; default: 3")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    trees = [ROOT, *([args.against.resolve()] if args.against else [])]
    print(f"{'':8} {'tree':>30} {'wall min':>9} {'median':>7} {'CPU min':>9} {'median':>7}")
    for part in args.parts:
        seconds: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
        for _ in range(args.rounds):
            for tree in trees:
                seconds[tree] += in_tree(tree, part, sys.argv[1:])
        rows = []
        for tree in trees:
            wall, cpu = zip(*seconds[tree], strict=True)
            rows.append((min(wall), median(wall), min(cpu), median(cpu)))
            print(f"{part:8} {str(tree)[-30:]:>30}", *(f"{value:8.3f}" for value in rows[-1]))
        if args.against:
            ratios = (f"{b / a:8.2f}" for a, b in zip(*rows, strict=True))
            print(f"{part:8} {'times as fast':>30}", *ratios)


if __name__ == "__main__":
    main()
