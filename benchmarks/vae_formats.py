"""Differences between a VAE and the same one in diffusers' format.

`python benchmarks/vae_formats.py [--channels 128] [--resolution 128]` makes networks of Stable
Diffusion's and FLUX's architecture with random weights, starts ours from them (`vae.init`), exports ours
again (`edm2 export vae`), and prints the largest absolute differences of means, standard deviations and
decoded images, for random images: between ours and the first network, ours and the exported one, and, to
compare with, between the first one in float32 and in float64.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
import torch
from diffusers import AutoencoderKL

from edm2.data.normalization import Normalization
from edm2.params import load
from edm2.params.vae import Vae
from edm2.vae.diffusers_format import autoencoder_config, to_diffusers
from edm2.vae.initialization import initialize
from edm2.vae.network import Autoencoder

SHAPES = {"Stable Diffusion": (4, True), "FLUX": (16, False)}  # latent channels, quant convolutions
MULT = (1, 2, 4, 4)


def make_params(shape: str, variance: Any, channels: int) -> Vae:
    latent_channels, quant = SHAPES[shape]
    options = {
        "channels": channels,
        "channel_mult": MULT,
        "res_blocks": 2,
        "latent_channels": latent_channels,
        "norm_groups": min(32, channels),
        "attention": True,
        "attention_heads": 1,
        "quant_convolutions": quant,
        "variance": variance,
    }
    tree = load(Path(__file__).parent.parent / "params.yaml").vae.model_dump()
    return Vae.model_validate(tree | options)


def make_autoencoder(network: Autoencoder, params: Vae) -> Any:
    constants = torch.zeros(params.latent_channels), torch.ones(params.latent_channels)
    config = autoencoder_config(network, params, 64, Normalization(*constants))
    return AutoencoderKL.from_config(config).eval()


def results(network: Any, images: torch.Tensor, latents: torch.Tensor) -> list[torch.Tensor]:
    distribution = network.encode(images).latent_dist
    return [distribution.mean, distribution.std, network.decode(latents).sample]


@torch.no_grad()
def measure(shape: str, variance: Any, channels: int, resolution: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    params = make_params(shape, variance, channels)
    network = Autoencoder(params)
    published = make_autoencoder(network, params)
    with TemporaryDirectory() as folder:
        published.save_pretrained(folder)
        initialize(network, params, Path(folder))
    exported = make_autoencoder(network, params)
    exported.load_state_dict(to_diffusers(network, params))
    images = torch.rand(1, 3, resolution, resolution) * 2 - 1
    mean, std = network.encode(images)
    ours = [mean, std, network.decoder(mean)]
    theirs = results(published, images, mean)
    exact = results(published.double(), images.double(), mean.double())
    if variance != "learned":  # the published network has another one
        theirs[1] = exact[1] = std
    pairs = {
        "ours, published": (ours, theirs),
        "ours, exported": (ours, results(exported, images, mean)),
        "published, in float64": (theirs, exact),
    }
    return [
        {"network": shape, "variance": variance, "difference": name}
        | {
            key: float((x - y).abs().max())
            for key, x, y in zip(("mean", "std", "image"), a, b, strict=True)
        }
        for name, (a, b) in pairs.items()
    ]


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--resolution", type=int, default=128)
    return parser


if __name__ == "__main__":
    arguments = vars(argument_parser().parse_args())
    rows = [
        row
        for shape, variance in product(SHAPES, ("learned", 0.1))
        for row in measure(shape, variance, **arguments)
    ]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1e"))
