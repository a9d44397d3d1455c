"""Seeds → images: where denoiser, guide, solver and codec meet."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edm2.data.latents import LatentShards
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.params import Params, UserError
from edm2.params.diffusion import Letter
from edm2.sampling.generate import generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, with_guide, without_labels
from edm2.vae.codec import load_codec


class Sampler:
    """Images of one config's networks, in the latents of the project."""

    def __init__(self, params: Params, config: Letter, device: torch.device) -> None:
        self.params, self.config, self.device = params, config, device
        self.latents = LatentShards(Path("data/latents"), "train")
        self.classes = self.latents.classes
        self.codec = load_codec(Path("models/vae"), device)

    @cached_property
    def denoiser(self) -> Denoiser:
        return self._denoiser(self.params)

    @cached_property
    def guide(self) -> Denoiser:
        return self._denoiser(self.params.guide_of(self.config))

    def _denoiser(self, params: Params) -> Denoiser:
        shape, classes = self.latents.shape, len(self.classes)
        return denoiser_for(self.config, params, shape, classes).to(self.device)

    def denoise(self, network: Path, guide: Path | None, strength: float) -> ConditionalDenoise:
        """A network's denoiser, guided with `strength`; 1 is without guidance.

        Args:
            guide: another network's file; None: the network itself, without labels.

        Raises:
            UserError: a file cannot be read, or holds another network.
        """
        main, interval = set_network(self.denoiser, _read(network)), self.params.guidance.interval
        if strength == 1:
            return main
        if guide is None:
            return guided(main, without_labels(main), strength, interval)
        other = set_network(self.guide, _read(guide))
        return guided(main, with_guide(main, other), strength, interval)

    def labels_of(self, seeds: Sequence[int]) -> torch.Tensor:
        """The class of each seed, as params have it."""
        return seed_labels(seeds, len(self.classes), self.params.sampling.labels)

    def images(
        self,
        denoise: ConditionalDenoise,
        seeds: Sequence[int],
        labels_of: Callable[[Sequence[int]], torch.Tensor],
    ) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """The seeds in batches, and their images uint8 [N, 3, R, R]."""
        for part, latents in generate(
            denoise, seeds, self.latents.shape, labels_of, self.params.sampling, self.device
        ):
            yield part, self.codec.decode(self.latents.normalization.denormalize(latents))


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: expected a network of models/sweep/<config>/, a safetensors file ({error})."
        ) from None
