"""Denoisers as params describe them, and their weights on disk."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from edm2.diffusion.denoiser import Denoiser, build_denoiser
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
    """The weights of the end of training, float32, uncertainty head included."""
    save_file({name: tensor.cpu() for name, tensor in denoiser.state_dict().items()}, path)


def set_network(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> Denoiser:
    """Give the raw network these weights, for sampling.

    Raises:
        UserError: they are of another network.
    """
    own = {name: tensor.shape for name, tensor in denoiser.unet.state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    differing = sorted(
        name for name in own.keys() | given.keys() if own.get(name) != given.get(name)
    )
    if differing:
        name = differing[0]
        raise UserError(
            f"{len(differing)} tensors are not those of the network that `diffusion` describes, "
            f"{name} among them: shape {_told(given.get(name))}, expected {_told(own.get(name))}. "
            "Set size or channels, channel_mult, blocks, the latents' shape and classes as they were."
        )
    denoiser.unet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return denoiser.eval().requires_grad_(False)


def _told(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(list(shape))
