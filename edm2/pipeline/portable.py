"""Portable networks: with all that sampling from them needs, without a project.

A folder has `model.safetensors`, `config.json`, the codec's files in `codec/`, and checksums in
`manifest.json`. An average of such a network is a safetensors file with a `config.json` beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError

from edm2.data.normalization import Normalization
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.description import describe, first_problem
from edm2.diffusion.pretrained import (
    CODEC,
    CONFIG,
    REMEDY,
    load_denoiser,
    read_config,
    verified_file,
    weights_file,
    write_config,
)
from edm2.params import UserError
from edm2.params.codec import Rounding
from edm2.params.evaluation import Sampling
from edm2.params.number_types import Factor, Interval
from edm2.params.registry import one_of
from edm2.params.seams import CODECS
from edm2.params.section import Section
from edm2.pipeline.portable_codec import WITHOUT_FILES, CodecDescription, copy_codec
from edm2.runtime.hub import local_network


@dataclass(frozen=True)
class PortableNetwork:
    """A network with all that sampling from it needs.

    Attributes:
        denoiser: with its weights, frozen, on the CPU; its `shape` is that of the latents.
        normalization: mean and standard deviation of the latents.
        classes: their names, or their numbers as text if these are unknown; [] if unconditional.
        identity: SHA-256 of the file of the weights.
        sampling: recommended settings of the sampler; None: unknown.
        guidance_interval: noise levels between which guidance acts; None: all.
        provenance: where it comes from, for people and for the model card.
    """

    denoiser: Denoiser
    codec: CodecDescription
    normalization: Normalization
    classes: list[str]
    identity: str
    sampling: Sampling | None = None
    guidance_interval: tuple[float, float] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class _Codec(Section):
    kind: Annotated[str, one_of(CODECS)]
    normalization: Literal["dataset", "paper"]
    rounding: Rounding
    files: bool  # whether they are in codec/


class _Latents(Section):
    mean: tuple[float, ...]
    std: tuple[Factor, ...]


class _Description(Section):
    denoiser: dict[str, Any]
    codec: _Codec
    latents: _Latents
    classes: tuple[str, ...]
    sampling: Sampling | None
    guidance_interval: Interval | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)


def read_portable(name: str | Path, **options: Any) -> PortableNetwork:
    """
    Args:
        name: an exported folder; a safetensors file with a `config.json` beside it; a pickle of EDM2's
            authors; or a repository of the Hugging Face Hub, owner/name.
        options: for the Hub, see `local_network`.

    Raises:
        UserError: there is no such network; a file is missing, damaged, of another version of the format or
            of another network.
        NotFiniteError: a weight is not finite.
    """
    path = local_network(name, **options)
    if path.suffix == ".pkl":
        from edm2.pipeline.published_network import read_published_network

        return read_published_network(path)
    weights = weights_file(path)
    folder = weights.parent
    source = folder / CONFIG
    tree = _parse(read_config(folder), source)
    identity = verified_file(weights)[1]
    denoiser = load_denoiser(weights, tree.denoiser, source)
    _check_sizes(tree, denoiser, source)
    codec = CodecDescription(
        tree.codec.kind,
        tree.codec.normalization,
        tree.codec.rounding,
        folder / CODEC if tree.codec.files else None,
    )
    normalization = Normalization(torch.tensor(tree.latents.mean), torch.tensor(tree.latents.std))
    return PortableNetwork(
        denoiser,
        codec,
        normalization,
        list(tree.classes),
        identity,
        tree.sampling,
        tree.guidance_interval,
        tree.provenance,
    )


def write_description(folder: Path, network: PortableNetwork) -> None:
    """Write `config.json`, and copy the files of the codec to `codec/`; weights are not written.

    Raises:
        NotFiniteError: a number is not finite.
    """
    codec = network.codec
    if codec.folder is not None:
        copy_codec(codec.folder, folder / CODEC)
    tree = {
        "denoiser": describe(network.denoiser),
        "codec": {**codec.options, "files": codec.folder is not None},
        "latents": {
            "mean": network.normalization.mean.tolist(),
            "std": network.normalization.std.tolist(),
        },
        "classes": network.classes,
        "sampling": network.sampling and network.sampling.model_dump(mode="json"),
        "guidance_interval": network.guidance_interval,
        "provenance": dict(network.provenance),
    }
    write_config(folder, tree)


def _parse(tree: Mapping[str, Any], source: Path) -> _Description:
    if tree.get("codec") is None:
        raise UserError(
            f"{source}: describes a denoiser without its codec and latents, so it makes no images. Export "
            "the network with `edm2 export network`."
        )
    try:
        return _Description.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise UserError(
            f"{source}: {first_problem(error)} If a plug-in has it, import that first. {REMEDY}"
        ) from None


def _check_sizes(tree: _Description, denoiser: Denoiser, source: Path) -> None:
    """Raises UserError if parts do not fit the network."""
    shape = denoiser.shape
    sizes = (
        ("latents.mean", len(tree.latents.mean), shape.in_channels),
        ("latents.std", len(tree.latents.std), shape.in_channels),
        ("classes", len(tree.classes), shape.num_classes),
    )
    for name, size, expected in sizes:
        if size != expected:
            raise UserError(f"{source}: {name}: {size} entries, expected {expected}. {REMEDY}")
    if not tree.codec.files and tree.codec.kind not in WITHOUT_FILES:
        raise UserError(
            f"{source}: codec.files: false: a codec of kind {tree.codec.kind} needs its files in "
            f"{CODEC}/. {REMEDY}"
        )
