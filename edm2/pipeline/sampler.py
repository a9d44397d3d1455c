"""Seeds → images, from the denoiser, its guide, the solver and the codec."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from edm2.data.normalization import Normalization
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.inference import prepare_for_inference
from edm2.params.errors import NotFiniteError
from edm2.params.evaluation import Sampling
from edm2.params.runtime import Runtime
from edm2.runtime.device import DTYPES
from edm2.runtime.finite import listed, nonfinite_rows
from edm2.sampling.generate import SampleBatch, generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, with_guide, without_labels
from edm2.vae.codec import Codec


class Networks(Protocol):
    """Where networks and their guides come from, with all that sampling from them needs.

    Attributes:
        classes: their names; empty if the networks are unconditional and no names are known.
        shape: of a latent, [C, R, R].
        interval: noise levels at which guidance is active; None: all.
        conditional: whether the networks take classes.
        guides_itself: whether they can be evaluated without a class as well.
    """

    @property
    def classes(self) -> list[str]: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def normalization(self) -> Normalization: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def guides_itself(self) -> bool: ...

    def codec(self, device: torch.device) -> Codec: ...

    def precision(self, device: torch.device) -> str:
        """Of activations on a device, as `runtime.precision`; it may be auto."""
        ...

    def network(self, path: Path) -> Denoiser:
        """A denoiser with the weights of a network, which the next call may replace.

        Raises:
            UserError: it cannot be read, or has another shape.
        """
        ...

    def guide(self, path: Path) -> Denoiser:
        """As `network`, of a guide."""
        ...

    def identity(self, network: Path, guide: Path | None) -> Mapping[str, Any]:
        """What determines the images beside sampler, seeds and classes, as JSON."""
        ...

    def remedy(self) -> str:
        """What to do if a network's samples are not finite; empty: nothing is known."""
        ...


class Sampler:
    """Samples images from the networks of one source.

    Attributes:
        classes: names of the classes.
    """

    def __init__(self, networks: Networks, device: torch.device, precision: str) -> None:
        """
        Args:
            precision: of activations, a key of `DTYPES`.
        """
        self.networks, self.device, self.precision = networks, device, precision
        self.classes, self.shape = networks.classes, networks.shape
        self.normalization = networks.normalization
        self.codec = networks.codec(device)
        self.network, self.strength = Path(), 1.0  # of the last call of `denoise`, for errors

    def denoise(self, network: Path, guide: Path | None, strength: float) -> ConditionalDenoise:
        """A network's denoiser, guided with `strength`; 1 is without guidance.

        Args:
            guide: file of another network; None: the network itself, without labels.

        Raises:
            UserError: a file cannot be read, or its network has another shape.
        """
        main = self._prepared(self.networks.network(network))
        interval = self.networks.interval
        self.network, self.strength = network, strength
        if strength == 1:
            return main
        if guide is None:
            return guided(main, without_labels(main), strength, interval)
        other = self._prepared(self.networks.guide(guide))
        return guided(main, with_guide(main, other), strength, interval)

    def _prepared(self, denoiser: Denoiser) -> ConditionalDenoise:
        denoiser.dtype = DTYPES[self.precision]
        return prepare_for_inference(denoiser.to(self.device))

    def labels(self, seeds: Sequence[int]) -> torch.Tensor:
        """The class of each seed, int64 [N]; see `sampling.labels`. Without classes, 0."""
        return seed_labels(seeds, max(1, len(self.classes)), self.networks.sampling.labels)

    def images(
        self,
        denoise: ConditionalDenoise,
        seeds: Sequence[int],
        labels: torch.Tensor,
        sampling: Sampling | None = None,
    ) -> Iterator[SampleBatch]:
        """Images uint8 [N, 3, R, R] of the seeds, in batches.

        Args:
            labels: the class of each seed, int64 [N].
            sampling: None: that of the networks.

        Raises:
            NotFiniteError: a sample is not finite.
        """
        sampling = sampling or self.networks.sampling
        for batch in generate(denoise, seeds, labels, self.shape, sampling, self.device):
            self._check(batch)
            latents = self.normalization.denormalize(batch.samples)
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
        precision, remedy = self.precision, self.networks.remedy()
        ways = [
            *([remedy] if remedy else []),
            *(["lower the guidance strength"] if self.strength != 1 else []),
            *(
                [f"compute in fp32 (runtime.precision or --dtype; {precision} now)"]
                if precision != "fp32"
                else []
            ),
        ]
        return f"What may help: {'; '.join(ways or ['another network'])}."
