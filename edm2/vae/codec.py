"""Codecs: images → latents → images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file

from edm2.data.images import max_batch_size, rounded_to_uint8, to_float, to_uint8
from edm2.data.normalization import SIGMA_DATA, Normalization
from edm2.params.registry import implementation
from edm2.params.seams import CODECS
from edm2.params.vae import Vae
from edm2.params.vae_manifest import stored_options
from edm2.runtime.files import replacing
from edm2.runtime.finite import require_finite
from edm2.runtime.manifest import REBUILD_HINT, read_manifest, read_verified, write_manifest
from edm2.vae.boundary import float_latents, note_clamped, require_range, rgb_images
from edm2.vae.network import Autoencoder
from edm2.vae.stable_diffusion import StableDiffusionVae, load_autoencoder


class Codec(Protocol):
    """Images uint8 [N, 3, H, W] ↔ latents float32 [N, channels, H/downscale, W/downscale].

    `encode` also takes gray images [N, 1, H, W], as RGB images of three equal channels.

    Latents have the codec's own scale; `edm2.data.normalization.Normalization` scales them to a standard
    deviation of 0.5. Large images pass the network a few at a time, so that N is limited by the
    memory for images only.
    """

    downscale: int
    channels: int
    normalization: Normalization | None  # constants; None: measured over the dataset

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (≥ 0) of each image's latent.

        Raises:
            ValueError: images of another shape or type, see `rgb_images`.
        """
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] in [0, 255], rounded (or truncated) and clamped.

        Raises:
            ValueError: latents of another shape or type, see `float_latents`.
            NotFiniteError, OutOfRangeError: the network diverged, see `require_range`.
        """
        ...


class TrainedVae:
    """The VAE that the stage `train_vae` trains."""

    normalization: Normalization | None = None

    def __init__(self, network: Autoencoder, params: Vae) -> None:
        self.network, self.params = network, params
        self.downscale, self.channels = params.downscale, params.latent_channels

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = rgb_images(images, self.downscale)
        parts = images.split(max_batch_size(images.shape[-1]))
        means, stds = zip(*(self.network.encode(to_float(part)) for part in parts), strict=True)
        if self.network.clamp is not None:
            note_clamped(torch.cat(means), self.network.clamp)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = float_latents(latents, self.channels)
        parts = latents.split(max_batch_size(latents.shape[-1] * self.downscale))
        return torch.cat([self._decode(part) for part in parts])

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        images = self.network.decoder(latents)
        require_range(images)
        return rounded_to_uint8(images)


class Rgb:
    """Pixel space: latents are the images in [-1, 1], with std 0.

    The paper's normalization leaves them unchanged: it takes their standard deviation as 0.5.
    """

    downscale, channels = 1, 3

    def __init__(self, normalization: Literal["dataset", "paper"]) -> None:
        paper = Normalization(torch.zeros(3), torch.full((3,), SIGMA_DATA))
        self.normalization = paper if normalization == "paper" else None

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = to_float(rgb_images(images))
        return mean, torch.zeros_like(mean)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(latents)


def save_vae(network: Autoencoder, params: Vae, folder: Path, **metadata: Any) -> None:
    """Write a trained codec for `load_codec`, with `metadata` in its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / "network.safetensors") as partial:
        save_file(tensors, partial)
    write_manifest(folder, kind="trained", vae=network_options(params), **metadata)


def network_options(params: Vae) -> dict[str, Any]:
    """The options of a network and its training, for a manifest; `ema` changes neither."""
    return params.model_dump(mode="json", exclude={"ema"})


def load_codec(folder: Path, device: torch.device) -> Codec:
    """The frozen codec of a folder that `save_vae` or `save_codec` wrote.

    Raises:
        UserError: a file is missing or damaged.
        NotFiniteError: a weight of a trained VAE is not finite.
    """
    kind = read_verified(folder)["kind"]
    codec: Codec = implementation(CODECS[kind].load)(folder, device)
    return codec


def load_trained(folder: Path, device: torch.device) -> Codec:
    params = stored_options(read_manifest(folder)["vae"])
    tensors = load_file(folder / "network.safetensors")
    for name, tensor in tensors.items():
        require_finite(tensor, f"{folder}: tensor {name} of the VAE", REBUILD_HINT)
    return trained_vae(params, tensors, device)


def trained_vae(
    params: Vae, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> TrainedVae:
    """The frozen VAE that `params` describe, with these weights."""
    network = Autoencoder(params)
    network.load_state_dict(tensors)
    return TrainedVae(network.to(device).eval().requires_grad_(False), params)


def load_stable_diffusion(folder: Path, device: torch.device) -> Codec:
    manifest = read_manifest(folder)
    network = load_autoencoder(folder, device)
    return StableDiffusionVae(network, manifest["normalization"], manifest["rounding"])


def load_rgb(folder: Path, device: torch.device) -> Codec:
    return Rgb(read_manifest(folder)["normalization"])
