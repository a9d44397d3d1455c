"""The codec of a portable network, and the check of one that a stranger made."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from edm2.diffusion.description import first_problem
from edm2.params import UserError
from edm2.params.codec import Rounding
from edm2.params.vae import Vae
from edm2.runtime.manifest import MANIFEST, read_manifest, read_verified, write_manifest
from edm2.vae.codec import Codec, Rgb, load_codec
from edm2.vae.network import Autoencoder
from edm2.vae.published import published_vae
from edm2.vae.stable_diffusion import StableDiffusionVae, load_autoencoder

WITHOUT_FILES = ("rgb", "stable_diffusion")
MAX_BLOCKS = 1024
REMEDY = "Download the network again, or export it again."


@dataclass(frozen=True)
class CodecDescription:
    """A codec that may not be loaded yet.

    Attributes:
        kind: a member of `edm2.params.seams.CODECS`.
        normalization, rounding: its options, see `edm2.params.codec`.
        folder: of its files, as models/vae; None for rgb, and for Stable Diffusion's VAE, which is then
            that of the cache, downloaded once.
    """

    kind: str
    normalization: Literal["dataset", "paper"] = "dataset"
    rounding: Rounding = "nearest"
    folder: Path | None = None

    def load(self, device: torch.device) -> Codec:
        """
        Raises:
            UserError: a file is missing or damaged, or of another codec, or cannot be downloaded.
        """
        if self.folder is not None:
            self._check(self.folder)
            return load_codec(self.folder, device)
        if self.kind == "rgb":
            return Rgb(self.normalization)
        network = load_autoencoder(published_vae(), device)
        return StableDiffusionVae(network, self.normalization, self.rounding)

    def _check(self, folder: Path) -> None:
        """Raises UserError if the files are of another codec, or if a trained VAE has other weights than its
        description, whose memory is not allocated here.
        """
        manifest = read_manifest(folder)
        for name, expected in self.options.items():
            if manifest.get(name, expected) != expected:  # of a trained VAE it has the kind only
                raise UserError(
                    f"{folder / MANIFEST}: {name}: {manifest[name]!r}, expected {expected!r} as in "
                    f"config.json. {REMEDY}"
                )
        if self.kind == "trained":
            _check_trained(folder, manifest.get("vae"))

    @property
    def options(self) -> dict[str, str]:
        """Kind, normalization and rounding."""
        return {"kind": self.kind, "normalization": self.normalization, "rounding": self.rounding}


def copy_codec(source: Path, target: Path) -> None:
    """Copy the files of a codec's folder, which are compared with their checksums.

    Paths of this machine in its manifest are cut down to their last part.

    Raises:
        UserError: a file is missing or damaged.
    """
    manifest = read_verified(source)
    for name in manifest.pop("files"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    target.mkdir(parents=True, exist_ok=True)
    write_manifest(target, **without_folders(manifest))


def without_folders(tree: Any) -> Any:
    """A tree whose absolute paths are cut down to their last part."""
    if isinstance(tree, dict):
        return {key: without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_folders(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and tree.startswith(("/", "~")) else tree


def _check_trained(folder: Path, values: Any) -> None:
    path = folder / "network.safetensors"
    try:
        params = Vae.model_validate(values)
        if len(params.channel_mult) * params.res_blocks > MAX_BLOCKS:
            raise UserError(f"{folder / MANIFEST}: vae: more than {MAX_BLOCKS} blocks. {REMEDY}")
        with torch.device("meta"):
            expected = Autoencoder(params).state_dict()
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST}: vae: {first_problem(error)} {REMEDY}") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: cannot be read as the weights of a VAE ({error}). {REMEDY}"
        ) from None
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise UserError(
            f"{path}: the weights are of another VAE than {MANIFEST} describes. {REMEDY}"
        )
