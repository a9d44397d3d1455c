"""The Stable Diffusion VAE as a codec, through `diffusers` (the extra `sd`)."""

from pathlib import Path
from typing import Any, Literal

import torch

from edm2.data.images import max_batch_size, to_float
from edm2.data.normalization import Normalization
from edm2.params import UserError
from edm2.params.codec import Rounding
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.runtime.finite import require_finite
from edm2.runtime.limits import require_file
from edm2.vae.boundary import float_latents, require_range, rgb_images

PAPER = Normalization(  # latents of ImageNet, encoded from images in [0, 1]
    torch.tensor([5.81, 3.25, 0.12, -2.15]), torch.tensor([4.17, 4.62, 3.71, 3.28])
)
OVERFLOW = "The VAE that made them diverged, or overflows."
HINT = "Set codec.path to another folder, or to null."


class StableDiffusionVae:
    """A `Codec`. Computes in float32: the activations of the original overflow in float16.

    With the paper's normalization the network encodes images in [0, 1], though it was trained on
    [-1, 1], and its output is taken to be in [0, 1] too. EDM2's constants and its published networks
    belong to such latents (docs/guides/latents.md).
    """

    def __init__(
        self, network: Any, normalization: Literal["dataset", "paper"], rounding: Rounding
    ) -> None:
        """
        Args:
            network: an `AutoencoderKL`.
            rounding: of decoded images to 8 bits; EDM2's published pipeline truncates.
        """
        self.network, self.rounding = network, rounding
        self.downscale = 2 ** (len(network.config.block_out_channels) - 1)
        self.channels: int = network.config.latent_channels
        self.zero_to_one = normalization == "paper"
        self.normalization = PAPER if self.zero_to_one else None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means, stds = [], []
        for part in rgb_images(images, self.downscale).split(max_batch_size(images.shape[-1])):
            x = to_float(part)
            latents = self.network.encode((x + 1) / 2 if self.zero_to_one else x).latent_dist
            require_finite(latents.parameters, "latents", OVERFLOW)  # they are clamped
            means.append(latents.mean)
            stds.append(latents.std)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = float_latents(latents, self.channels)
        images = []
        for part in latents.split(max_batch_size(latents.shape[-1] * self.downscale)):
            x = self.network.decode(part).sample
            require_range(2 * x - 1 if self.zero_to_one else x, OVERFLOW)
            levels = (x if self.zero_to_one else (x + 1) / 2).clamp(0, 1) * 255
            images.append((levels.round() if self.rounding == "nearest" else levels.floor()).byte())
        return torch.cat(images)


def load_autoencoder(folder: Path, device: torch.device, hint: str = HINT) -> Any:
    """The frozen `AutoencoderKL` in a folder with its config and safetensors; no pickle is read.

    Args:
        hint: what to do if they cannot be used.

    Raises:
        UserError: the files are damaged, incomplete or of another network.
        NotFiniteError: a weight is not finite.
    """
    from diffusers import AutoencoderKL

    try:
        for name in (CONFIG, WEIGHTS):
            require_file(folder / name)
        network, info = AutoencoderKL.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: expected an AutoencoderKL saved by diffusers ({reason}). {hint}"
        ) from None
    mismatched = [name for kind in ("missing_keys", "unexpected_keys") for name in info[kind]]
    if mismatched:
        raise UserError(
            f"{folder / WEIGHTS}: missing or unknown tensors: {', '.join(mismatched[:3])}. Expected "
            f"those of {CONFIG}. {hint}"
        )
    for name, tensor in network.state_dict().items():
        require_finite(tensor, f"{folder}: tensor {name}", hint)
    return network.to(device).eval().requires_grad_(False)
