"""Weights that a training of the VAE starts from: those of a trained VAE or of an `AutoencoderKL`."""

from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any

import torch

from edm2.params import UserError
from edm2.params.codec_checks import CONFIG
from edm2.params.errors import Problem
from edm2.params.vae import Vae
from edm2.vae.codec import TrainedVae, load_codec
from edm2.vae.diffusers_format import Tensors, from_diffusers
from edm2.vae.network import Attention, Autoencoder, Norm
from edm2.vae.stable_diffusion import load_autoencoder

CPU = torch.device("cpu")
HINT = "Set vae.init.path to another folder, or to null."
SAME = ("res_blocks", "latent_channels", "attention", "quant_convolutions", "high_resolution")
ENCODERS = ("wavelet",)  # options without effect on the decoder
SUPPORTED = {  # of the configs of diffusers
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}


def initialize(network: Autoencoder, params: Vae, folder: Path) -> None:
    """Give `network` the weights in `folder`, or its decoder only (`params.init.parts`).

    Of an encoder with a learned variance, one with a constant variance takes the outputs for the means.

    Raises:
        UserError: a file is missing or damaged, or the network there has other options; names all of them.
        NotFiniteError: a weight is not finite.
    """
    source, state = _read(folder, params)
    with torch.device("meta"):
        layers = Autoencoder(source)
    decoder_only = params.init.parts == "decoder"
    problems = list(_differences(network, params, layers, source, decoder_only))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{folder}: another network than `vae` describes:\n{lines}")
    if source.variance == "learned" and params.variance != "learned" and not decoder_only:
        _keep_means(state, layers, source)
    if decoder_only:
        network.decoder.load_state_dict(_part(state, "decoder."))
    else:
        network.load_state_dict(state)


def _part(state: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _read(folder: Path, params: Vae) -> tuple[Vae, Tensors]:
    """The options of the network in `folder`, as params of `vae`, and its tensors by our names."""
    if (folder / CONFIG).is_file():
        autoencoder = load_autoencoder(folder, CPU, HINT)
        source = params.model_copy(update=_options(dict(autoencoder.config), folder))
        return source, from_diffusers(autoencoder.state_dict(), source)
    codec = load_codec(folder, CPU)
    if not isinstance(codec, TrainedVae):
        raise UserError(f"{folder}: this codec has no network to start from. {HINT}")
    return codec.params, codec.network.state_dict()


def _options(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The params of `vae` that describe an `AutoencoderKL`."""
    for key, expected in SUPPORTED.items():
        value = config[key]
        if {*value} - {expected} if isinstance(value, list | tuple) else value != expected:
            raise UserError(f"{folder / CONFIG}: {key}: {value!r}: expected {expected!r}. {HINT}")
    if config["use_quant_conv"] != config["use_post_quant_conv"]:
        raise UserError(
            f"{folder / CONFIG}: use_quant_conv and use_post_quant_conv: expected both or neither. {HINT}"
        )
    widths = config["block_out_channels"]
    return {
        "channels": gcd(*widths),
        "channel_mult": tuple(width // gcd(*widths) for width in widths),
        "res_blocks": config["layers_per_block"],
        "latent_channels": config["latent_channels"],
        "norm_groups": config["norm_num_groups"],
        "attention": config["mid_block_add_attention"],
        "attention_heads": 1,
        "quant_convolutions": config["use_quant_conv"],
        "wavelet": False,
        "high_resolution": False,
        "variance": "learned",
    }


def _differences(
    network: Autoencoder,
    params: Vae,
    layers: Autoencoder,
    source: Vae,
    decoder_only: bool,
) -> Iterator[Problem]:
    """The options of `network` that are not those of `layers`, the network to start from."""
    keys = SAME if decoder_only else SAME + ENCODERS
    ours = _facts(network, params) | {f"vae.{key}": getattr(params, key) for key in keys}
    theirs = _facts(layers, source) | {f"vae.{key}": getattr(source, key) for key in keys}
    for key, value in theirs.items():
        if ours[key] != value and not (key == "vae.attention_heads" and 0 in (value, ours[key])):
            yield Problem(key, ours[key], f"{value}, as there", "Set it, or choose another folder.")
    if not decoder_only and params.variance == "learned" and source.variance != "learned":
        yield Problem("vae.variance", "learned", "a number: the encoder there gives none", HINT)


def _facts(network: Autoencoder, params: Vae) -> dict[str, Any]:
    """Widths of the levels, groups of the norms and heads: params describe the same in several ways."""
    norms = {layer.num_groups for layer in network.modules() if isinstance(layer, Norm)}
    heads = {layer.heads for layer in network.modules() if isinstance(layer, Attention)}
    return {
        "vae.channels, vae.channel_mult": [params.channels * mult for mult in params.channel_mult],
        "vae.norm_groups": norms.pop() if len(norms) == 1 else sorted(norms),
        "vae.attention_heads": max(heads, default=0),
    }


def _keep_means(state: Tensors, layers: Autoencoder, source: Vae) -> None:
    """Remove the encoder's outputs for the variance.

    A quant convolution has inputs for the variance, too: the last two layers, both linear, become one, and
    the quant convolution the identity.
    """
    count, last = source.latent_channels, len(layers.encoder) - 1
    layer = f"encoder.{last - source.quant_convolutions}"
    weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
    if source.quant_convolutions:
        quant = f"encoder.{last}"
        mixing = state[f"{quant}.weight"][:, :, 0, 0].double()
        weight = torch.einsum("oc,chkl->ohkl", mixing, weight.double()).float()
        bias = (mixing @ bias.double() + state[f"{quant}.bias"]).float()
        state[f"{quant}.weight"] = torch.eye(count)[:, :, None, None]
        state[f"{quant}.bias"] = torch.zeros(count)
    state[f"{layer}.weight"], state[f"{layer}.bias"] = weight[:count], bias[:count]
