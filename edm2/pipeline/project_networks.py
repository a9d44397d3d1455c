"""The networks of a project: models/sweep, averages of its trainings, and their guides."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from edm2.data.latents import LatentSpace, read_latent_space
from edm2.data.normalization import Normalization
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.evaluation import Sampling
from edm2.params.runtime import Runtime
from edm2.pipeline.network_reader import NetworkReader, network_identity
from edm2.pipeline.paths import LATENTS, VAE
from edm2.pipeline.sampler import Sampler
from edm2.runtime.files import sha256
from edm2.runtime.manifest import MANIFEST
from edm2.runtime.precision import with_precision
from edm2.vae.codec import Codec, load_codec


class ProjectNetworks:
    """The networks of one config of the project in the current folder, as `Networks`."""

    def __init__(self, params: Params, config: ConfigName, bytes_ahead: int = 0) -> None:
        """
        Args:
            params: of the config.
            bytes_ahead: see `NetworkReader`.
        """
        self.params, self.config = params, config
        self.reader = NetworkReader(bytes_ahead)
        self._loaded: dict[str, Path] = {}  # files of the weights in the denoisers

    @cached_property
    def latents(self) -> LatentSpace:
        return read_latent_space(LATENTS)

    @property
    def classes(self) -> list[str]:
        """Names of the dataset's classes."""
        return self.latents.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.latents.shape

    @property
    def normalization(self) -> Normalization:
        return self.latents.normalization

    @property
    def sampling(self) -> Sampling:
        return self.params.sampling

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.params.guidance.interval

    @property
    def conditional(self) -> bool:
        return self.params.diffusion.conditional

    @property
    def guides_itself(self) -> bool:
        return self.params.diffusion.label_dropout > 0

    @property
    def runtime(self) -> Runtime:
        return self.params.runtime

    def precision(self, device: torch.device) -> str:
        return self.runtime.precision

    def codec(self, device: torch.device) -> Codec:
        return load_codec(VAE, device)

    @cached_property
    def _network(self) -> Denoiser:
        return self._denoiser(self.params)

    @cached_property
    def _guide(self) -> Denoiser:
        return self._denoiser(self.params.guide_of(self.config))

    def _denoiser(self, params: Params) -> Denoiser:
        """The precision is chosen by `Sampler`."""
        params = with_precision(params, "fp32")
        return denoiser_for(self.config, params, self.shape, len(self.classes))

    def network(self, path: Path) -> Denoiser:
        return self._load(self._network, "network", path)

    def guide(self, path: Path) -> Denoiser:
        return self._load(self._guide, "guide", path)

    def _load(self, denoiser: Denoiser, role: str, file: Path) -> Denoiser:
        """The denoiser with the weights of `file`, read unless they were its last ones."""
        if self._loaded.pop(role, None) != file:
            set_network(denoiser, self.reader.read(file), file)
        self._loaded[role] = file
        return denoiser

    def identity(self, network: Path, guide: Path | None) -> Mapping[str, Any]:
        guidance = self.params.guidance.model_dump(mode="json")
        return {
            "networks": [None if p is None else network_identity(p) for p in (network, guide)],
            "codec": sha256(VAE / MANIFEST),
            "latents": sha256(LATENTS / MANIFEST),
            "config": self.config,
            "changes": guidance["changes"] if guide else None,
        }

    def remedy(self) -> str:
        return f"see whether the training of config {self.config} diverged, and lower its lr_ref"


def project_sampler(
    params: Params, config: ConfigName, device: torch.device, bytes_ahead: int = 0
) -> Sampler:
    """The sampler of one config's networks; `runtime.precision` must not be auto.

    Args:
        bytes_ahead: see `NetworkReader`.
    """
    networks = ProjectNetworks(params, config, bytes_ahead)
    return Sampler(networks, device, params.runtime.precision)
