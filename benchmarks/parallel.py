"""What a rank of two holds, keeps and computes in a training step of the denoiser, with DDP, FSDP2 and
activation checkpointing.

`python benchmarks/parallel.py --channels 32 --batch 8` starts two processes on CPUs for each variant, and
prints a row of rank 0: MiB of state (parameters, gradients, moments, two averages), MiB of activations that
are kept for the backward pass of a microbatch, CPU seconds per step, and the loss.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd

ROOT = Path(__file__).parent.parent
MIB = 2**20
VARIANTS = [(mode, recompute) for mode in ("ddp", "fsdp") for recompute in (False, True)]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The row of this rank."""
    import torch

    from edm2.diffusion import build_denoiser
    from edm2.diffusion.setup import prepare_training
    from edm2.diffusion.training import DenoiserTask
    from edm2.ema import PowerEMA
    from edm2.params import load
    from edm2.params.configs import CONFIGS
    from edm2.runtime.distributed import process_group, ranks
    from edm2.runtime.sharding import local

    cpu, side, count = torch.device("cpu"), args.resolution, args.batch // 2
    torch.set_num_threads(1)
    with process_group(cpu):
        torch.manual_seed(0)
        config = replace(CONFIGS[args.config], batch=args.batch)
        denoiser = build_denoiser(config, channels=args.channels, resolution=side)
        runtime = SimpleNamespace(
            data_parallel=args.data_parallel,
            activation_checkpointing=args.activation_checkpointing,
            compile=False,
            channels_last=False,
        )
        prepare_training(denoiser, runtime, cpu)
        params = load(ROOT / "params.yaml").diffusion.model_copy(
            update={"microbatch": args.microbatch, "magnitudes_nimg": 10**12, "conditional": True}
        )
        average = PowerEMA(denoiser.unet, [0.05, 0.10])
        task = DenoiserTask(denoiser, average, params, 0, cpu)
        torch.manual_seed(ranks().rank)
        data = 0.5 * torch.randn(count, 4, side, side)
        batch = (data, torch.randn_like(data), torch.randn(count), torch.arange(count) % 1000)
        kept: dict[int, int] = {}  # storage → bytes

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = local(tensor).untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        task.step(batch, args.batch)
        begin = time.process_time()
        for step in range(args.steps):
            metrics = task.step(batch, (step + 2) * args.batch)
        seconds = (time.process_time() - begin) / args.steps
        weights = {p.untyped_storage().data_ptr() for p in map(local, denoiser.parameters())}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            data, noise, ln_sigma, labels = (x[: args.microbatch] for x in batch)
            loss, _ = task.loss(data, noise, ln_sigma.exp(), labels)
        loss.sum().backward()
        state = [
            t for p in denoiser.parameters() for t in (p, p.grad, *task.optimizer.state[p].values())
        ]
        state += [t for key in average.averages for t in average.averages[key].values()]
        return {
            "state MiB": sum(local(t).nbytes for t in state) / MIB,
            "kept MiB": sum(size for key, size in kept.items() if key not in weights) / MIB,
            "CPU s/step": seconds,
            "loss": float(metrics["train/loss"]),
        }


def on_two_ranks(arguments: list[str]) -> dict[str, Any]:
    """The row of rank 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments, "--one"],
            env={**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(1)
    row: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return row


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
        row = on_two_ranks([*sys.argv[1:], *flags])
        rows.append({"data_parallel": mode, "activation_checkpointing": recompute, **row})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
