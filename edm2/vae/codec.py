"""What turns images into latents and back."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from edm2.data.images import to_float, to_uint8
from edm2.params.vae import Vae
from edm2.runtime.manifest import read_manifest, write_manifest
from edm2.vae.network import Autoencoder


class Codec(Protocol):
    """Images uint8 [N, 3, R, R] ↔ latents float32 [N, channels, R/downscale, R/downscale].

    Latents have the codec's own scale; `edm2.data.latents.Normalization` brings them to 0.5.
    """

    downscale: int
    channels: int

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each image's latent."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 images."""
        ...


class TrainedVae:
    """The codec that `train_vae` makes."""

    def __init__(self, network: Autoencoder, params: Vae) -> None:
        self.network = network
        self.downscale, self.channels = params.downscale, params.latent_channels

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.network.encoder(to_float(images)).float()
        return mean, torch.full_like(mean, self.network.variance**0.5)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(self.network.decoder(latents))


def save_vae(network: Autoencoder, params: Vae, folder: Path, **facts: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "network.safetensors")
    write_manifest(folder, vae=params.model_dump(mode="json"), **facts)


def load_vae(folder: Path, device: torch.device) -> TrainedVae:
    """The frozen autoencoder of a folder that `save_vae` wrote."""
    params = Vae.model_validate(read_manifest(folder)["vae"])
    network = Autoencoder(params)
    network.load_state_dict(load_file(folder / "network.safetensors"))
    return TrainedVae(network.to(device).eval().requires_grad_(False), params)
