"""Small networks of config G in pickles like those of EDM2's authors."""

from pathlib import Path
from typing import Any

import torch
from published_pickles import StandardRGBEncoder, write_published

from edm2.diffusion import Denoiser, build_denoiser
from edm2.diffusion.names import published_name

PIXELS = {
    "channels": 8,
    "resolution": 16,
    "in_channels": 3,
    "num_classes": 3,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "attention_resolutions": (8,),
}
LATENTS = {**PIXELS, "resolution": 64, "in_channels": 4, "attention_resolutions": ()}


def random_denoiser(seed: int = 0, **shape: Any) -> Denoiser:
    """Random weights that are exact in 16 bits, as published files have them."""
    torch.manual_seed(seed)
    denoiser = build_denoiser("G", **{**PIXELS, **shape})
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_()
        for tensor in denoiser.state_dict().values():
            tensor.copy_(tensor.half())
    return denoiser.eval().requires_grad_(False)


def write_network(path: Path, denoiser: Denoiser, entry: str = "ema", **contents: Any) -> Path:
    """A pickle of a denoiser.

    Args:
        contents: `encoder`, and arguments of the network.
    """
    tensors = {published_name(n): t.half() for n, t in denoiser.state_dict().items()}
    shape = {
        "img_resolution": denoiser.shape.resolution,
        "img_channels": denoiser.shape.in_channels,
        "label_dim": denoiser.shape.num_classes,
    }
    contents = {"encoder": StandardRGBEncoder(), **shape, **contents}
    return write_published(path, tensors, entry, **contents)
