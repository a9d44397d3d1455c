"""`python -m edm2.diffusion CONFIG [SIZE]`: print a config's switches and its network's layers."""

import argparse
from dataclasses import asdict
from typing import get_args

import torch

from edm2.diffusion.denoiser import build_denoiser
from edm2.diffusion.summary import layer_table
from edm2.params.diffusion import Letter, Size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m edm2.diffusion", description=__doc__)
    parser.add_argument("config", choices=get_args(Letter), help="training configuration")
    parser.add_argument("size", nargs="?", choices=get_args(Size), help="default: S")
    parser.add_argument("--channels", type=int, help="width of the first level instead of a size")
    parser.add_argument("--resolution", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--channels-in", type=int, default=4, help="default: %(default)s (latents; 3: pixels)"
    )
    parser.add_argument(
        "--classes", type=int, default=1000, help="default: %(default)s (0: unconditional)"
    )
    parser.add_argument(
        "--channel-mult", type=_numbers, default=(1, 2, 3, 4), help="default: 1,2,3,4"
    )
    parser.add_argument("--blocks", type=int, default=3, help="per level; default: %(default)s")
    parser.add_argument("--attention", type=_numbers, help="resolutions; default: the config's")
    given = parser.parse_args()
    if given.size and given.channels:
        parser.error("give a size or --channels, not both")
    with torch.device("meta"):
        denoiser = build_denoiser(
            given.config,
            given.size,
            given.channels,
            resolution=given.resolution,
            channels_in=given.channels_in,
            num_classes=given.classes,
            channel_mult=given.channel_mult,
            blocks=given.blocks,
            attention_resolutions=given.attention,
        )
    print(
        f"Config {given.config} as in the paper's Table 1 (learning rate and dropout of size S):\n"
    )
    for switch, value in asdict(denoiser.ladder).items():
        print(f"{switch} = {value}")
    table = layer_table(denoiser)
    numbers = dict.fromkeys(("parameters", "multiply_adds"), "{:,}".format)
    print("\n" + table.to_string(index=False, formatters=numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
