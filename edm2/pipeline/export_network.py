"""A network of a project as a folder that needs no project: see `edm2.pipeline.portable`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edm2 import __version__
from edm2.data.latents import LatentSpace, read_latent_space
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.identification import mismatch
from edm2.diffusion.pretrained import (
    CARD,
    WEIGHTS,
    new_folder,
    read_config,
    write_weights,
)
from edm2.diffusion.setup import denoiser_for
from edm2.params import Params, UserError
from edm2.pipeline.changed_params import nearest_preset
from edm2.pipeline.export_choice import Choice
from edm2.pipeline.network_reader import NetworkReader, network_identity
from edm2.pipeline.paths import IMAGES, LATENTS, VAE
from edm2.pipeline.portable import PortableNetwork, write_description
from edm2.pipeline.portable_codec import CodecDescription, without_folders
from edm2.pipeline.published_network import PUBLISHED_LICENSE
from edm2.pipeline.run_facts import git_commit
from edm2.reporting.model_card import model_card
from edm2.runtime.files import write_text
from edm2.runtime.manifest import load_manifest, read_verified, write_manifest

Tensors = dict[str, torch.Tensor]


def export_choice(params: Params, choice: Choice, license_id: str | None, folder: Path) -> None:
    """Write a network of the project in the current folder.

    Args:
        license_id: its license as the Hugging Face Hub names it; None: not stated, or that of the
            published networks that it is made of.

    Raises:
        UserError: the folder exists; a file is missing or damaged; or the network is not of this config.
        NotFiniteError: a weight is not finite.
    """
    tensors = _whole(NetworkReader().read(choice.file))
    space = read_latent_space(LATENTS)
    denoiser = _denoiser(params.of(choice.replicate.config), choice, tensors, space)
    network = PortableNetwork(
        denoiser,
        _codec(),
        space.normalization,
        space.classes if denoiser.shape.num_classes else [],
        network_identity(choice.file),
        params.sampling,
        params.guidance.interval,
        _provenance(params, choice, license_id),
    )
    write_portable(folder, network, tensors)


def write_portable(
    folder: Path, network: PortableNetwork, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write all files of a network; they appear together.

    Args:
        tensors: the weights by name in the denoiser's state, in the dtype that is stored.

    Raises:
        UserError: the folder exists, or a file of the codec is missing or damaged.
    """
    with new_folder(folder) as temporary:
        write_weights(temporary / WEIGHTS, tensors)
        write_description(temporary, network)
        write_manifest(temporary)  # not of the card, which people edit
        write_text(temporary / CARD, model_card(folder.name, read_config(temporary)))


def export_portable(network: PortableNetwork, license_id: str | None, folder: Path) -> None:
    """Write a portable network, such as a published one, as a folder.

    Weights are stored in 16 bits if all of them are exact there, like those of published files.

    Raises:
        UserError: it is made from published networks, which have a license; see also `write_portable`.
    """
    if license_id is not None:
        _refuse_license(license_id, bool(network.provenance.get("published")))
        provenance = {**network.provenance, "license": license_id}
        network = replace(network, provenance=provenance)
    state = network.denoiser.state_dict()
    halves = {name: value.half() for name, value in state.items()}
    exact = all(torch.equal(halves[name].float(), value) for name, value in state.items())
    write_portable(folder, network, halves if exact else state)


def _whole(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Weights by their name in the state of a denoiser; averages have names of the raw network."""
    if any(name.startswith("unet.") for name in tensors):
        return dict(tensors)
    return {f"unet.{name}": tensor for name, tensor in tensors.items()}


def _denoiser(
    params: Params, choice: Choice, tensors: Mapping[str, torch.Tensor], space: LatentSpace
) -> Denoiser:
    """The denoiser of a config with these weights, without an uncertainty head if they have none."""
    runtime = params.runtime.model_copy(update={"precision": "fp32", "channels_last": False})
    with torch.device("meta"):
        denoiser = denoiser_for(
            choice.replicate.config,
            params.model_copy(update={"runtime": runtime}),
            space.shape,
            len(space.classes),
        )
    if not any(name.startswith("head.") for name in tensors):
        denoiser.head = None
    unet = {n.removeprefix("unet."): t for n, t in tensors.items() if n.startswith("unet.")}
    problem = mismatch(unet, denoiser)
    if problem:
        raise UserError(f"{choice.file}: another network than `diffusion` describes: {problem}")
    denoiser.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return denoiser.eval().requires_grad_(False)


def _codec() -> CodecDescription:
    """The project's codec; its folder is None if it has no files but the manifest."""
    manifest = read_verified(VAE)
    return CodecDescription(
        manifest["kind"],
        manifest.get("normalization", "dataset"),
        manifest.get("rounding", "nearest"),
        VAE if manifest["files"] else None,
    )


def _refuse_license(license_id: str, published: bool) -> None:
    if published and license_id != PUBLISHED_LICENSE:
        raise UserError(
            f"--license {license_id}: the network is made from those of EDM2's authors, whose license is "
            f"{PUBLISHED_LICENSE}. Leave --license out."
        )


def _provenance(params: Params, choice: Choice, license_id: str | None) -> dict[str, Any]:
    """Where the network comes from, as in `config.json`; paths of this machine are left out."""
    preset, changes = nearest_preset(params)
    published = params.ema.source == "published"
    if license_id is not None:
        _refuse_license(license_id, published)
    data, diffusion = load_manifest(IMAGES), params.diffusion.of(choice.replicate.config)
    tree = {
        "edm2": __version__,
        "code": git_commit(),
        "license": license_id or (PUBLISHED_LICENSE if published else None),
        "published": published,
        "config": choice.replicate.config,
        "seed": choice.replicate.seed,
        "network": choice.file.stem,
        "weights": network_identity(choice.file),
        "average": dict(choice.average),
        "data": {
            "source": data["source"],
            "path": params.dataset.path and Path(params.dataset.path).name,
            "resolution": data["resolution"],
            "images": data["images"],
            "classes": len(data["classes"]),
        },
        "preset": preset,
        "changes": {key: here for key, (_, here) in changes.items()},
        "precision": params.runtime.precision,
        "label_dropout": diffusion.label_dropout if diffusion.conditional else 0.0,
        "guide": params.guidance.guide,
        "evaluation": dict(choice.evaluation),
    }
    plain: dict[str, Any] = without_folders(tree)
    return plain
