"""Speed and memory of a training step, for choosing precision, compilation and memory layout.

`python benchmarks/train_step.py --config G --channels 64 --batch 4 --precision fp32 bf16` prints a
table: every combination of precision × torch.compile × channels-last in a process of its own.
A step is what training does: forced norms, loss, gradients, Adam, two averages. One that fails is
listed with its reason.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
from alone import alone, peak_gib


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of single steps on random data, after a warm-up; peak memory."""
    import torch

    from edm2.diffusion import build_denoiser
    from edm2.diffusion.training import DenoiserTask
    from edm2.ema import PowerEMA
    from edm2.params import load
    from edm2.params.configs import CONFIGS

    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    config = replace(CONFIGS[given.config], batch=given.batch)
    denoiser = build_denoiser(
        config, given.size, given.channels, resolution=given.resolution, dtype=given.precision[0]
    ).to(device)
    if given.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)
    params = load(Path(__file__).parent.parent / "params.yaml").diffusion.model_copy(
        update={"microbatch": given.microbatch, "magnitudes_nimg": 10**12, "conditional": True}
    )
    task = DenoiserTask(
        denoiser, PowerEMA(denoiser.unet, [0.05, 0.10]), params, 0, device, given.compile
    )
    side = given.resolution
    data = 0.5 * torch.randn(given.batch, 4, side, side)
    batch = (
        data,
        torch.randn_like(data),
        torch.randn(given.batch),
        torch.arange(given.batch) % 1000,
    )

    def step(number: int) -> float:
        start = time.perf_counter()
        task.step(batch, number * given.batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    warm = [step(k + 1) for k in range(given.warmup)]
    seconds = median([step(given.warmup + k + 1) for k in range(given.steps)])
    return {
        "s/step": seconds,
        "images/s": given.batch / seconds,
        "peak GiB": peak_gib(device),
        "first step s": warm[0],
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="G")
    parser.add_argument("--size", help="of the paper; or")
    parser.add_argument("--channels", type=int)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--warmup", type=int, default=4, help="steps; the first ones compile")
    parser.add_argument("--steps", type=int, default=5, help="timed; their median counts")
    parser.add_argument("--eager-only", action="store_true", help="leave torch.compile out")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--channels-last", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    given = arguments().parse_args()
    if given.one:
        print(json.dumps(measure(given)))
        return
    rows = []
    for precision, compiled, last in product(
        given.precision, (False,) if given.eager_only else (False, True), (False, True)
    ):
        extra = [*(["--compile"] if compiled else []), *(["--channels-last"] if last else [])]
        own = [*sys.argv[1:], "--precision", precision, "--one", *extra]
        found = alone(__file__, own, f"{precision} {'compiled' if compiled else 'eager'}")
        rows.append({"precision": precision, "compile": compiled, "channels-last": last, **found})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format, na_rep=""))


if __name__ == "__main__":
    main()
