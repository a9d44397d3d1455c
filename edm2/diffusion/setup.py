"""Build denoisers from params; save and load their weights."""

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
    """Write all weights as float32 safetensors, with those of the uncertainty head."""
    save_file({name: tensor.cpu() for name, tensor in denoiser.state_dict().items()}, path)


def set_network(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> Denoiser:
    """Load weights into the raw network and freeze it for sampling.

    Raises:
        UserError: the names or shapes are those of another network.
    """
    expected = {name: tensor.shape for name, tensor in denoiser.unet.state_dict().items()}
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    differing = sorted(
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    )
    if differing:
        name = differing[0]
        raise UserError(
            f"{len(differing)} tensors do not fit the network that `diffusion` describes, for "
            f"example {name}: shape {_text(actual.get(name))}, expected {_text(expected.get(name))}. "
            "Set size or channels, channel_mult and res_blocks as in the training of these weights, "
            "and use latents of the same shape and number of classes."
        )
    denoiser.unet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return denoiser.eval().requires_grad_(False)


def _text(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(list(shape))
