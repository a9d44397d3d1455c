"""Speed and memory of a training step of the denoiser, to choose precision, compilation and layout.

`python benchmarks/train_step.py --config G --channels 64 --batch 4 --precision fp32 bf16` prints a
table with one row per combination of precision × torch.compile × channels-last, each measured in its own
process. A step is that of training: forced norms, loss, gradients, Adam, two averages. If it fails, the
row has the reason.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
from measurement import run_in_own_process, time_steps


def measure(args: argparse.Namespace) -> dict[str, float]:
    """`time_steps` on random data."""
    import torch

    from edm2.diffusion import build_denoiser
    from edm2.diffusion.training import DenoiserTask
    from edm2.ema import PowerEMA
    from edm2.params import load
    from edm2.params.configs import CONFIGS

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    config = replace(CONFIGS[args.config], batch=args.batch)
    denoiser = build_denoiser(
        config, args.size, args.channels, resolution=args.resolution, dtype=args.precision[0]
    ).to(device)
    if args.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)
    params = load(Path(__file__).parent.parent / "params.yaml").diffusion.model_copy(
        update={"microbatch": args.microbatch, "magnitudes_nimg": 10**12, "conditional": True}
    )
    task = DenoiserTask(
        denoiser, PowerEMA(denoiser.unet, [0.05, 0.10]), params, 0, device, args.compile
    )
    side = args.resolution
    data = 0.5 * torch.randn(args.batch, 4, side, side)
    batch = (
        data,
        torch.randn_like(data),
        torch.randn(args.batch),
        torch.arange(args.batch) % 1000,
    )
    return time_steps(partial(task.step, batch), args.batch, args.warmup, args.steps, device)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="G")
    parser.add_argument("--size", help="XS to XXL; or set --channels")
    parser.add_argument("--channels", type=int)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument(
        "--warmup", type=int, default=4, help="steps, not timed; the first ones compile"
    )
    parser.add_argument("--steps", type=int, default=5, help="timed; median")
    parser.add_argument("--eager-only", action="store_true", help="without torch.compile")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--channels-last", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    rows = []
    for precision, compiled, last in product(
        args.precision, (False,) if args.eager_only else (False, True), (False, True)
    ):
        flags = [*(["--compile"] if compiled else []), *(["--channels-last"] if last else [])]
        arguments = [*sys.argv[1:], "--precision", precision, "--one", *flags]
        label = f"{precision} {'compiled' if compiled else 'eager'}"
        result = run_in_own_process(__file__, arguments, label)
        rows.append({"precision": precision, "compile": compiled, "channels-last": last, **result})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format, na_rep=""))


if __name__ == "__main__":
    main()
