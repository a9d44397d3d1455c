"""Stable Diffusion's autoencoder as a codec, through `diffusers` (the extra `sd`)."""

from pathlib import Path
from typing import Any, Literal

import torch

from edm2.data.images import max_batch_size, to_float, to_uint8
from edm2.data.normalization import Normalization
from edm2.params import UserError
from edm2.params.codec_checks import CONFIG, WEIGHTS

PAPER = Normalization(  # of its latents over ImageNet, from images in [0, 1]
    torch.tensor([5.81, 3.25, 0.12, -2.15]), torch.tensor([4.17, 4.62, 3.71, 3.28])
)


class StableDiffusionVae:
    """A `Codec`. Computes in float32: the original's activations overflow in float16.

    With the paper's normalization the network is shown images in [0, 1], though it was made for
    [-1, 1], and its output is read likewise: EDM2's constants belong to such latents, and its
    published networks make them (docs/guides/latents.md).
    """

    def __init__(self, network: Any, normalization: Literal["dataset", "paper"]) -> None:
        """
        Args:
            network: an `AutoencoderKL`.
        """
        self.network = network
        self.downscale = 2 ** (len(network.config.block_out_channels) - 1)
        self.channels: int = network.config.latent_channels
        self.as_paper = normalization == "paper"
        self.normalization = PAPER if self.as_paper else None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means, stds = [], []
        for part in images.split(max_batch_size(images.shape[-1])):
            x = to_float(part)
            latents = self.network.encode((x + 1) / 2 if self.as_paper else x).latent_dist
            means.append(latents.mean)
            stds.append(latents.std)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        images = []
        for part in latents.split(max_batch_size(latents.shape[-1] * self.downscale)):
            x = self.network.decode(part).sample
            images.append(to_uint8(x * 2 - 1 if self.as_paper else x))
        return torch.cat(images)


def load_autoencoder(folder: Path, device: torch.device) -> Any:
    """The frozen `AutoencoderKL` of a folder with its config and safetensors; no pickle is read.

    Raises:
        UserError: the files are not those of such an autoencoder, or incomplete.
    """
    from diffusers import AutoencoderKL

    try:
        network, info = AutoencoderKL.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"{folder}: expected an autoencoder as diffusers saves it ({told}). "
            "Set codec.path to another, or to null."
        ) from None
    wrong = [name for kind in ("missing_keys", "unexpected_keys") for name in info[kind]]
    if wrong:
        raise UserError(
            f"{folder / WEIGHTS}: expected the tensors of {CONFIG}; missing or unknown: "
            f"{', '.join(wrong[:3])}. Set codec.path to another, or to null."
        )
    return network.to(device).eval().requires_grad_(False)
