"""What a rank of two holds, keeps and computes in a training step of the denoiser, with DDP, FSDP2 and
activation checkpointing.

`python benchmarks/parallel.py --channels 32 --batch 8` starts two processes on CPUs for each variant, and
prints a row of rank 0: MiB of state (parameters, gradients, moments, two averages), MiB of activations that
are kept for the backward pass of a microbatch, CPU seconds per step, and the loss.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
from processes import on_two_ranks

ROOT = Path(__file__).parent.parent
MIB = 2**20
VARIANTS = [(mode, recompute) for mode in ("ddp", "fsdp") for recompute in (False, True)]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The row of this rank."""
    import torch

    from edm2.runtime.distributed import process_group, ranks

    cpu, side, count = torch.device("cpu"), args.resolution, args.batch // 2
    torch.set_num_threads(1)
    with process_group(cpu, 10.0):
        torch.manual_seed(0)
        task = make_task(args, cpu)
        torch.manual_seed(ranks().rank)
        data = 0.5 * torch.randn(count, 4, side, side)
        batch = (data, torch.randn_like(data), torch.randn(count), torch.arange(count) % 1000)
        task.step(batch, args.batch)
        begin = time.process_time()
        for step in range(args.steps):
            metrics = task.step(batch, (step + 2) * args.batch)
        return {
            "CPU s/step": (time.process_time() - begin) / args.steps,
            "loss": float(metrics["train/loss"]),
            "kept MiB": kept_bytes(task, [x[: args.microbatch] for x in batch]) / MIB,
            "state MiB": state_bytes(task) / MIB,
        }


def make_task(args: argparse.Namespace, device: Any) -> Any:
    """A training of the denoiser with two averages."""
    from edm2.diffusion import build_denoiser
    from edm2.diffusion.setup import prepare_training
    from edm2.diffusion.training import DenoiserTask
    from edm2.ema import PowerEMA
    from edm2.params import load
    from edm2.params.configs import CONFIGS

    config = replace(CONFIGS[args.config], batch=args.batch)
    denoiser = build_denoiser(config, channels=args.channels, resolution=args.resolution)
    params = load(ROOT / "params.yaml")
    changes = {
        "data_parallel": args.data_parallel,
        "activation_checkpointing": args.activation_checkpointing,
    }
    prepare_training(denoiser, params.runtime.model_copy(update=changes), device)
    diffusion = params.diffusion.model_copy(
        update={"microbatch": args.microbatch, "magnitudes_nimg": 10**12, "conditional": True}
    )
    return DenoiserTask(denoiser, PowerEMA(denoiser.unet, [0.05, 0.10]), diffusion, 0, device)


def kept_bytes(task: Any, microbatch: list[Any]) -> int:
    """Bytes that are kept for the backward pass of a microbatch, without parameters."""
    import torch

    from edm2.runtime.sharding import local

    kept: dict[int, int] = {}  # by address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = local(tensor).untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = map(local, task.denoiser.parameters())
    addresses = {p.untyped_storage().data_ptr() for p in parameters}
    data, noise, ln_sigma, labels = microbatch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = task.loss(data, noise, ln_sigma.exp(), labels)
    loss.sum().backward()
    return sum(size for address, size in kept.items() if address not in addresses)


def state_bytes(task: Any) -> int:
    """Bytes of parameters, gradients, moments and averages on this rank."""
    from edm2.runtime.sharding import local

    moments = task.optimizer.state
    tensors = [t for p in task.denoiser.parameters() for t in (p, p.grad, *moments[p].values())]
    tensors += [t for average in task.average.averages.values() for t in average.values()]
    return sum(local(t).nbytes for t in tensors)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="G")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="of both ranks")
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--steps", type=int, default=3, help="timed; their mean")
    parser.add_argument("--data-parallel", default="ddp", help=argparse.SUPPRESS)
    parser.add_argument("--activation-checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    rows = []
    for mode, recompute in VARIANTS:
        flags = ["--data-parallel", mode, *(["--activation-checkpointing"] if recompute else [])]
        row = on_two_ranks(__file__, [*sys.argv[1:], *flags, "--one"], {})
        rows.append({"data_parallel": mode, "activation_checkpointing": recompute, **row})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
