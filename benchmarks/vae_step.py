"""Speed and memory of a training step of the VAE, and the cost of each loss.

`python benchmarks/vae_step.py [--channels 32 64] [--resolution 64] [--backbone efficientnet]`
prints a table: per network and backbone a row for mse only, for mse and each other loss, and for all
losses. Each row is measured in its own process, on random images and with a backbone of random weights.
"""

import argparse
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
from measurement import run_in_own_process, time_steps

LOSSES = {
    "mse": (),
    "+ pooled": ("pooled",),
    "+ low-pass": ("low_pass",),
    "+ perceptual": ("perceptual",),
    "+ adversarial": ("adversarial",),
    "+ perceptual, adversarial": ("perceptual", "adversarial"),
    "all": ("pooled", "low_pass", "perceptual", "adversarial"),
}


def make_params(args: argparse.Namespace) -> Any:
    from edm2.params import load

    vae = load(Path(__file__).parent.parent / "params.yaml").vae
    weights = dict.fromkeys(("perceptual", "adversarial", "pooled", "low_pass"), 0.0)
    weights |= {"mse": 1.0, **dict.fromkeys(LOSSES[args.losses], 1.0)}
    return vae.model_copy(
        update={
            "channels": args.channels[0],
            "channel_mult": (1, 2, 4, 4),
            "res_blocks": 2,
            "batch": args.batch,
            "microbatch": args.microbatch,
            "losses": vae.losses.model_copy(update=weights),
            "adversarial": vae.adversarial.model_copy(
                update={"discriminator_nimg": 0, "generator_nimg": 0}
            ),
        }
    )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """`time_steps` on random images."""
    import torch

    from edm2.features.classifier import Classifier
    from edm2.params.registry import implementation
    from edm2.params.seams import VAE_BACKBONES
    from edm2.vae.network import Autoencoder
    from edm2.vae.training import VaeTask

    params, device, side = make_params(args), torch.device(args.device), args.resolution
    torch.manual_seed(0)
    untrained = VAE_BACKBONES[args.backbone[0]].untrained
    backbone = implementation(untrained)() if untrained else Classifier(16, 3, 64, 10, side)
    backbone.eval().requires_grad_(False).to(device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    network = Autoencoder(params).to(device)
    task = VaeTask(network, params, backbone, 0, device, dtype, args.compile)
    latent = side // params.downscale
    batch = (
        torch.randint(0, 256, (args.batch, 3, side, side), dtype=torch.uint8),
        torch.randn(args.batch, params.latent_channels, latent, latent),
    )
    return time_steps(partial(task.step, batch), args.batch, args.warmup, args.steps, device)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--backbone", nargs="+", default=["classifier", "efficientnet", "vgg16"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warmup", type=int, default=2, help="steps, not timed")
    parser.add_argument("--steps", type=int, default=5, help="timed; median")
    parser.add_argument("--losses", choices=LOSSES, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.losses:
        print(json.dumps(measure(args)))
        return
    rows = []
    for channels, backbone, losses in product(args.channels, args.backbone, LOSSES):
        options = ["--channels", str(channels), "--backbone", backbone, "--losses", losses]
        label = f"{channels} {backbone} {losses}"
        result = run_in_own_process(__file__, [*sys.argv[1:], *options], label)
        rows.append({"channels": channels, "backbone": backbone, "losses": losses, **result})
    table = pd.DataFrame(rows)
    mse_seconds = table.groupby(["channels", "backbone"])["s/step"].transform("first")
    table["vs. mse"] = table["s/step"] / mse_seconds
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


if __name__ == "__main__":
    main()
