"""Weights that a training of the VAE starts from: those of a trained VAE or of an `AutoencoderKL`."""

from pathlib import Path

import torch

from edm2.params import UserError
from edm2.params.codec_checks import CONFIG
from edm2.params.vae import Vae
from edm2.params.vae_init import HINT, differences, initial_options
from edm2.vae.codec import TrainedVae, load_codec
from edm2.vae.diffusers_format import Tensors, from_diffusers
from edm2.vae.network import Autoencoder
from edm2.vae.stable_diffusion import load_autoencoder

CPU = torch.device("cpu")


def initialize(network: Autoencoder, params: Vae, folder: Path) -> None:
    """Give `network` the weights in `folder`, or its decoder only (`params.init.parts`).

    An encoder with a constant variance takes the outputs for the means from one with a learned variance.

    Raises:
        UserError: a file is missing or damaged, or the network there has other options; names all of them.
        NotFiniteError: a weight is not finite.
    """
    source, state = _read(folder, params)
    problems = list(differences(params, source))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{folder}: another network than `vae` describes:\n{lines}")
    decoder_only = params.init.parts == "decoder"
    if source.variance == "learned" and params.variance != "learned" and not decoder_only:
        _keep_means(state, source)
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
        try:
            source = initial_options(params, folder)
        except ValueError as error:
            raise UserError(f"{error} {HINT}") from None
        return source, from_diffusers(autoencoder.state_dict(), source)
    codec = load_codec(folder, CPU)
    if not isinstance(codec, TrainedVae):
        raise UserError(f"{folder}: this codec has no network to start from. {HINT}")
    return codec.params, codec.network.state_dict()


def _keep_means(state: Tensors, source: Vae) -> None:
    """Remove the encoder's outputs for the variance.

    A quant convolution has inputs for the variance, too: the last two layers, both linear, become one, and
    the quant convolution the identity.
    """
    with torch.device("meta"):
        last = len(Autoencoder(source).encoder) - 1
    count = source.latent_channels
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
