"""Seeds → images, from the denoiser, its guide, the solver and the codec."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from edm2.data.latents import read_latent_space
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.errors import NotFiniteError
from edm2.pipeline.network_reader import NetworkReader
from edm2.pipeline.paths import LATENTS, VAE
from edm2.runtime.finite import listed, nonfinite_rows
from edm2.sampling.generate import SampleBatch, generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, with_guide, without_labels
from edm2.vae.codec import load_codec


class Sampler:
    """Samples images from networks of one config.

    Attributes:
        classes: names of the dataset's classes.
    """

    def __init__(
        self, params: Params, config: ConfigName, device: torch.device, bytes_ahead: int = 0
    ) -> None:
        """
        Args:
            bytes_ahead: see `NetworkReader`.
        """
        self.params, self.config, self.device = params, config, device
        self.latents = read_latent_space(LATENTS)
        self.classes = self.latents.classes
        self.codec = load_codec(VAE, device)
        self.reader = NetworkReader(bytes_ahead)
        self.network, self.strength = Path(), 1.0  # of the last call of `denoise`, for errors
        self._loaded: dict[str, Path] = {}  # files of the weights in the denoisers

    @cached_property
    def denoiser(self) -> Denoiser:
        """The denoiser of the config; its weights are those of the last network used."""
        return self._denoiser(self.params)

    @cached_property
    def guide(self) -> Denoiser:
        """The denoiser of the config's guide."""
        return self._denoiser(self.params.guide_of(self.config))

    def _denoiser(self, params: Params) -> Denoiser:
        shape, classes = self.latents.shape, len(self.classes)
        return denoiser_for(self.config, params, shape, classes).to(self.device)

    def denoise(self, network: Path, guide: Path | None, strength: float) -> ConditionalDenoise:
        """A network's denoiser, guided with `strength`; 1 is without guidance.

        Args:
            guide: file of another network; None: the network itself, without labels.

        Raises:
            UserError: a file cannot be read, or its network has another shape.
        """
        main = self._load(self.denoiser, "network", network)
        interval = self.params.guidance.interval
        self.network, self.strength = network, strength
        if strength == 1:
            return main
        if guide is None:
            return guided(main, without_labels(main), strength, interval)
        other = self._load(self.guide, "guide", guide)
        return guided(main, with_guide(main, other), strength, interval)

    def _load(self, denoiser: Denoiser, role: str, file: Path) -> Denoiser:
        """The denoiser with the weights of `file`, read unless they were its last ones."""
        if self._loaded.pop(role, None) != file:
            set_network(denoiser, self.reader.read(file), file)
        self._loaded[role] = file
        return denoiser

    def labels(self, seeds: Sequence[int]) -> torch.Tensor:
        """The class of each seed, int64 [N]; see `sampling.labels`."""
        return seed_labels(seeds, len(self.classes), self.params.sampling.labels)

    def images(
        self, denoise: ConditionalDenoise, seeds: Sequence[int], labels: torch.Tensor
    ) -> Iterator[SampleBatch]:
        """Images uint8 [N, 3, R, R] of the seeds, in batches.

        Args:
            labels: the class of each seed, int64 [N].

        Raises:
            NotFiniteError: a sample is not finite.
        """
        shape, sampling = self.latents.shape, self.params.sampling
        for batch in generate(denoise, seeds, labels, shape, sampling, self.device):
            self._check(batch)
            latents = self.latents.normalization.denormalize(batch.samples)
            yield replace(batch, samples=self.codec.decode(latents))

    def _check(self, batch: SampleBatch) -> None:
        rows = nonfinite_rows(batch.samples)
        if rows:
            seeds = listed([str(batch.seeds[row]) for row in rows])
            raise NotFiniteError(
                f"{self.network}, guidance {self.strength:g}: {len(rows)} of {len(batch.seeds)} samples "
                f"are not finite (seeds {seeds}). {self._remedy()}"
            )

    def _remedy(self) -> str:
        """What to do if samples are not finite."""
        precision = self.params.runtime.precision
        ways = [
            f"see whether the training of config {self.config} diverged, and lower its lr_ref",
            *(["lower the guidance strength"] if self.strength != 1 else []),
            *([f"set runtime.precision to fp32 ({precision} now)"] if precision != "fp32" else []),
        ]
        return f"What may help: {'; '.join(ways)}."
