"""The VAE in the format of diffusers' `AutoencoderKL`: which options it has, its config, its tensors.

`AutoencoderKL` is the encoder and decoder of latent diffusion (Rombach et al. 2022) with one number of
groups in all norms, one attention head, and a variance that the encoder gives. A constant variance
becomes one that the encoder gives for every latent. Tensors keep their values, so both compute the same
up to rounding.
"""

from collections.abc import Iterator, Mapping
from math import gcd, log
from typing import Any

import torch

from edm2.data.normalization import Normalization
from edm2.params.errors import Problem
from edm2.params.vae import Vae
from edm2.vae.network import (
    LOG_VARIANCE_RANGE,
    Attention,
    Autoencoder,
    Down,
    Norm,
    ResBlock,
    Up,
)

Tensors = dict[str, torch.Tensor]
AGAIN = "Set it and train again."
PARTS = {
    ResBlock: {
        "norm0": ["norm1"],
        "conv0": ["conv1"],
        "norm1": ["norm2"],
        "conv1": ["conv2"],
        "shortcut": ["conv_shortcut"],
    },
    Attention: {
        "norm": ["group_norm"],
        "qkv": ["to_q", "to_k", "to_v"],
        "projection": ["to_out.0"],
    },
    Down: {"conv": ["conv"]},
    Up: {"conv": ["conv"]},
}  # parts of a layer here → those of the same layer in diffusers, joined along the first dimension


def format_problems(network: Autoencoder, params: Vae) -> Iterator[Problem]:
    """The options of a VAE that an `AutoencoderKL` does not have."""
    for name in ("wavelet", "high_resolution"):
        if getattr(params, name):
            yield Problem(f"vae.{name}", True, "false", AGAIN)
    if params.clamp is not None:
        yield Problem("vae.clamp", params.clamp, "null: means are not clamped there", AGAIN)
    groups = sorted({layer.num_groups for layer in network.modules() if isinstance(layer, Norm)})
    if len(groups) > 1:
        usual = Norm(gcd(*(params.channels * mult for mult in params.channel_mult))).num_groups
        yield Problem(
            "vae.norm_groups",
            params.norm_groups,
            f"a number of groups that all norms have; they have {' or '.join(map(str, groups))}",
            f"Set it, for example to {usual}, and train again.",
        )
    heads = {layer.heads for layer in network.modules() if isinstance(layer, Attention)}
    if heads - {1}:
        yield Problem(
            "vae.attention_heads", params.attention_heads, f"1 head, not {max(heads)}", AGAIN
        )


def autoencoder_config(
    network: Autoencoder, params: Vae, resolution: int, normalization: Normalization
) -> dict[str, Any]:
    """The config.json of a VAE without `format_problems`.

    Args:
        resolution: of the images that it was trained on.
        normalization: of its latents. diffusers has two numbers for all channels: (z − shift_factor) ·
            scaling_factor has mean 0 and standard deviation 1 over the channels together.
    """
    levels = len(params.channel_mult)
    mean, std = normalization.mean.double(), normalization.std.double()
    shift = float(mean.mean())
    variance = float((std.square() + mean.square()).mean()) - shift**2
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [params.channels * mult for mult in params.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": params.latent_channels,
        "layers_per_block": params.res_blocks,
        "mid_block_add_attention": params.attention,
        "norm_num_groups": next(m.num_groups for m in network.modules() if isinstance(m, Norm)),
        "out_channels": 3,
        "sample_size": resolution,
        "scaling_factor": variance**-0.5,
        "shift_factor": shift,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": params.quant_convolutions,
        "use_quant_conv": params.quant_convolutions,
    }


def to_diffusers(network: Autoencoder, params: Vae) -> Tensors:
    """The tensors of a VAE without `format_problems`, by their names in diffusers."""
    tensors: Tensors = {}
    state = network.state_dict()
    for name, theirs in tensor_names(network, params):
        for part, tensor in zip(theirs, state[name].chunk(len(theirs)), strict=True):
            linear = ".attentions." in part and tensor.ndim > 1
            tensors[part] = (tensor.flatten(1) if linear else tensor).contiguous()
    if params.variance != "learned":
        _append_variance(tensors, params, params.variance)
    return tensors


def from_diffusers(tensors: Mapping[str, torch.Tensor], params: Vae) -> Tensors:
    """The inverse of `to_diffusers`, of a network with a learned variance."""
    with torch.device("meta"):
        network = Autoencoder(params)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return {
        name: torch.cat([tensors[part] for part in theirs]).reshape(shapes[name])
        for name, theirs in tensor_names(network, params)
    }


def _append_variance(tensors: Tensors, params: Vae, variance: float) -> None:
    """Let the encoder give the logarithm of a constant variance beside the means, from its last bias.

    diffusers has no variance below e⁻³⁰ (standard deviation 3.1e-7), which is used for 0.
    """
    logarithm = LOG_VARIANCE_RANGE[0] if variance == 0 else log(variance)
    last = "quant_conv" if params.quant_convolutions else "encoder.conv_out"
    if params.quant_convolutions:  # it ignores the second half of its inputs
        weight = tensors["quant_conv.weight"]
        tensors["quant_conv.weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
    for layer in {"encoder.conv_out", last}:
        weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
        value = logarithm if layer == last else 0.0
        tensors[f"{layer}.weight"] = torch.cat([weight, torch.zeros_like(weight)])
        tensors[f"{layer}.bias"] = torch.cat([bias, torch.full_like(bias, value)])


def tensor_names(network: Autoencoder, params: Vae) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of tensors here, each with those of the tensors in diffusers that it consists of."""
    for part, names in (
        ("encoder", _encoder_layers(params)),
        ("decoder", _decoder_layers(params)),
    ):
        layers = getattr(network, part).named_children()
        for (index, layer), theirs in zip(layers, names, strict=True):
            for name in layer.state_dict():
                inner, _, kind = name.rpartition(".")
                ends = [f"{end}.{kind}" for end in PARTS[type(layer)][inner]] if inner else [kind]
                yield f"{part}.{index}.{name}", tuple(f"{theirs}.{end}" for end in ends)


def _encoder_layers(params: Vae) -> Iterator[str]:
    """The names in diffusers of the encoder's layers, in their order."""
    yield "encoder.conv_in"
    for level in range(len(params.channel_mult)):
        if level > 0:
            yield f"encoder.down_blocks.{level - 1}.downsamplers.0"
        for block in range(params.res_blocks):
            yield f"encoder.down_blocks.{level}.resnets.{block}"
    yield from _middle_layers("encoder", params)
    yield from _last_layers("encoder")
    yield from ["quant_conv"] * params.quant_convolutions


def _decoder_layers(params: Vae) -> Iterator[str]:
    yield from ["post_quant_conv"] * params.quant_convolutions
    yield "decoder.conv_in"
    yield from _middle_layers("decoder", params)
    for level in range(len(params.channel_mult)):
        if level > 0:
            yield f"decoder.up_blocks.{level - 1}.upsamplers.0"
        for block in range(params.res_blocks + 1):
            yield f"decoder.up_blocks.{level}.resnets.{block}"
    yield from _last_layers("decoder")


def _middle_layers(part: str, params: Vae) -> Iterator[str]:
    yield f"{part}.mid_block.resnets.0"
    yield from [f"{part}.mid_block.attentions.0"] * params.attention
    yield f"{part}.mid_block.resnets.1"


def _last_layers(part: str) -> Iterator[str]:
    yield from (f"{part}.conv_norm_out", f"{part}.conv_act", f"{part}.conv_out")
