"""Build denoisers from params; save and load their weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.diffusion.identification import mismatch
from edm2.params import Params, UserError
from edm2.params.configs import ConfigName
from edm2.params.resolution import resolve


def denoiser_for(
    name: ConfigName, params: Params, shape: tuple[int, int, int], num_classes: int
) -> Denoiser:
    """The denoiser of one config for data [C, R, R] of `num_classes` classes."""
    diffusion = params.diffusion.of(name)
    config = resolve(name, diffusion)
    denoiser = build_denoiser(
        config,
        diffusion.size,
        diffusion.channels,
        resolution=shape[1],
        in_channels=shape[0],
        num_classes=num_classes if diffusion.conditional else 0,
        channel_mult=diffusion.channel_mult,
        res_blocks=diffusion.res_blocks,
        dtype=params.runtime.precision,
    )
    if params.runtime.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)
    return denoiser


def save_network(denoiser: Denoiser, path: Path) -> None:
    """Write all weights as float32 safetensors, with those of the uncertainty head."""
    save_file({name: tensor.cpu() for name, tensor in denoiser.state_dict().items()}, path)


def set_network(
    denoiser: Denoiser, tensors: Mapping[str, torch.Tensor], source: object = "these weights"
) -> Denoiser:
    """Load weights into the raw network and freeze it for sampling.

    Args:
        source: file of the weights, for errors.

    Raises:
        UserError: the names or shapes are those of another network.
    """
    problem = mismatch(tensors, denoiser)
    if problem:
        raise UserError(f"{source}: another network than `diffusion` describes: {problem}")
    denoiser.unet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return denoiser.eval().requires_grad_(False)
