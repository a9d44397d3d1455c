"""A portable network and its guide, as the sampler needs them: neither a project nor data."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from edm2.data.normalization import Normalization
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.pretrained import CONFIG
from edm2.params import UserError
from edm2.params.evaluation import Sampling
from edm2.params.presets import preset_params
from edm2.params.runtime import Runtime
from edm2.pipeline.portable import PortableNetwork, read_portable
from edm2.pipeline.sample_options import SampleOptions
from edm2.runtime.device import DTYPES
from edm2.runtime.files import sha256
from edm2.runtime.hub import FILE_ENDINGS, REPOSITORY
from edm2.runtime.manifest import MANIFEST
from edm2.vae.codec import Codec

AUTHORS = "imagenet512-s"  # the preset whose sampler is that of EDM2's authors


def is_portable(name: str) -> bool:
    """Whether a network has, or would have, its description with it.

    A pickle, an exported folder, a file with `config.json` beside it, or a repository of the Hugging Face
    Hub. Other files are networks of a project.
    """
    path = Path(name)
    if path.is_dir():
        return (path / CONFIG).exists()
    if path.exists() and path.suffix == ".safetensors":
        return (path.parent / CONFIG).exists()
    is_repository = REPOSITORY.fullmatch(name) and path.suffix not in FILE_ENDINGS
    return path.suffix == ".pkl" or (bool(is_repository) and not path.exists())


@dataclass(frozen=True)
class PortableNetworks:
    """One portable network and its guide, as `Networks`; they are read when they are needed first.

    Attributes:
        name, guide_name: see `read_portable`.
        options: values instead of those that the network recommends, or of EDM2's authors.
    """

    name: str
    guide_name: str | None
    options: SampleOptions

    @cached_property
    def main(self) -> PortableNetwork:
        return read_portable(self.name)

    @cached_property
    def other(self) -> PortableNetwork | None:
        """The guide."""
        if self.guide_name is None:
            return None
        guide = read_portable(self.guide_name)
        _check_guide(guide, self.guide_name, self.main)
        return guide

    @property
    def classes(self) -> list[str]:
        return self.main.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return _shape(self.main.denoiser)

    @property
    def normalization(self) -> Normalization:
        return self.main.normalization

    @cached_property
    def sampling(self) -> Sampling:
        recommended = self.main.sampling
        authors = preset_params(AUTHORS).sampling
        return self.options.sampling(authors if recommended is None else recommended)

    @cached_property
    def runtime(self) -> Runtime:
        return self.options.runtime(preset_params(AUTHORS).runtime)

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.main.guidance_interval

    @property
    def conditional(self) -> bool:
        return self.main.denoiser.shape.num_classes > 0

    @property
    def guides_itself(self) -> bool:
        return bool(self.main.provenance.get("label_dropout"))

    def precision(self, device: torch.device) -> str:
        """On a CPU fp32; on a GPU that of the network's training, or auto if it is unknown."""
        if self.options.dtype is not None:
            return self.runtime.precision
        if device.type == "cpu":
            return "fp32"
        trained = self.main.provenance.get("precision")
        return trained if trained in DTYPES else "auto"

    def codec(self, device: torch.device) -> Codec:
        return self.main.codec.load(device)

    def network(self, path: Path) -> Denoiser:
        return self.main.denoiser

    def guide(self, path: Path) -> Denoiser:
        assert self.other is not None
        return self.other.denoiser

    def identity(self, network: Path, guide: Path | None) -> Mapping[str, Any]:
        codec, latents = self.main.codec, self.main.normalization
        files = None if codec.folder is None else sha256(codec.folder / MANIFEST)
        return {
            "networks": [self.main.identity, self.other and self.other.identity],
            "codec": [codec.kind, codec.normalization, codec.rounding, files],
            "latents": [latents.mean.tolist(), latents.std.tolist()],
            "config": None,
            "changes": None,
        }

    def remedy(self) -> str:
        return ""


def _shape(denoiser: Denoiser) -> tuple[int, int, int]:
    shape = denoiser.shape
    return shape.in_channels, shape.resolution, shape.resolution


def _check_guide(guide: PortableNetwork, name: str, main: PortableNetwork) -> None:
    """Raises UserError if a guide is of other data than the network."""
    ours, theirs = _shape(main.denoiser), _shape(guide.denoiser)
    if theirs != ours:
        raise UserError(
            f"--guide {name}: a network of shape {list(theirs)}, expected {list(ours)} as that of NETWORK. "
            "Choose a guide that was trained on the same data."
        )
    classes = main.denoiser.shape.num_classes
    if guide.denoiser.shape.num_classes not in (0, classes):
        raise UserError(
            f"--guide {name}: a network of {guide.denoiser.shape.num_classes} classes, expected {classes} "
            "as that of NETWORK, or none. Choose a guide that was trained on the same data."
        )
    pairs = (
        (guide.normalization.mean, main.normalization.mean),
        (guide.normalization.std, main.normalization.std),
    )
    if guide.codec.kind != main.codec.kind or not all(torch.allclose(a, b) for a, b in pairs):
        raise UserError(
            f"--guide {name}: its latents have another codec or other constants than those of NETWORK. "
            "Choose a guide that was trained on the same data."
        )
