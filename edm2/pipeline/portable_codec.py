"""The codec of a portable network, and the check of one that a stranger made."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import nn

from edm2.diffusion.description import first_problem
from edm2.params import UserError
from edm2.params.codec import Rounding
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.registry import implementation
from edm2.params.seams import CODECS
from edm2.params.vae_manifest import stored_options
from edm2.runtime.checked_json import read_checked
from edm2.runtime.files import require_sha256, sha256
from edm2.runtime.manifest import MANIFEST, size_problem, write_manifest
from edm2.vae.codec import Codec, Rgb
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
            codec: Codec = implementation(CODECS[self.kind].load)(self.folder, device)
            return codec
        if self.kind == "rgb":
            return Rgb(self.normalization)
        network = load_autoencoder(published_vae(), device)
        return StableDiffusionVae(network, self.normalization, self.rounding)

    def _check(self, folder: Path) -> None:
        """Raises UserError if the files are of another codec, or if the weights of a VAE are of another one
        than its config, for which no memory is allocated here.
        """
        manifest = _verified(folder)
        for name, expected in self.options.items():
            if manifest.get(name, expected) != expected:  # of a trained VAE it has the kind only
                raise UserError(
                    f"{folder / MANIFEST}: {name}: {manifest[name]!r}, expected {expected!r} as in "
                    f"config.json. {REMEDY}"
                )
        if self.kind == "trained":
            _check_trained(folder, manifest.get("vae"))
        if self.kind == "stable_diffusion":
            _check_stable_diffusion(folder)

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
    manifest = _verified(source)
    for name in manifest.pop("files"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    target.mkdir(parents=True, exist_ok=True)
    write_manifest(target, **without_folders(manifest))


def _verified(folder: Path) -> dict[str, Any]:
    """The manifest of a codec's folder, after comparing each file with its checksum.

    Raises:
        UserError: it or a file is missing or damaged, or a name leads out of the folder.
    """
    manifest = read_checked(folder / MANIFEST, REMEDY, REMEDY)
    for name, entry in manifest["files"].items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise UserError(f"{folder / MANIFEST}: {name}: leads out of the folder. {REMEDY}")
        if problem := size_problem(folder, name, entry):
            raise UserError(f"{problem} {REMEDY}")
        path = folder / name
        require_sha256(path, sha256(path), entry["sha256"], f"as in {folder / MANIFEST}", REMEDY)
    return manifest


def without_folders(tree: Any) -> Any:
    """A tree whose absolute paths are cut down to their last part."""
    if isinstance(tree, dict):
        return {key: without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_folders(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and tree.startswith(("/", "~")) else tree


def _check_trained(folder: Path, values: Any) -> None:
    try:
        params = stored_options(values)
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST}: vae: {first_problem(error)} {REMEDY}") from None
    _check_depth(folder / MANIFEST, len(params.channel_mult) * params.res_blocks)
    _check_weights(folder / "network.safetensors", lambda: Autoencoder(params))


def _check_stable_diffusion(folder: Path) -> None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        depth = len(config["block_out_channels"]) * int(config["layers_per_block"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder / CONFIG}: cannot be read as the config of an AutoencoderKL ({error}). {REMEDY}"
        ) from None
    _check_depth(folder / CONFIG, depth)
    from diffusers import AutoencoderKL

    _check_weights(folder / WEIGHTS, lambda: AutoencoderKL.from_config(config), renamed=True)


def _check_depth(source: Path, blocks: int) -> None:
    if blocks > MAX_BLOCKS:
        raise UserError(f"{source}: {blocks} blocks: expected at most {MAX_BLOCKS}. {REMEDY}")


def _check_weights(path: Path, build: Callable[[], nn.Module], renamed: bool = False) -> None:
    """Raises UserError if weights do not belong to a network, whose memory is not allocated.

    Args:
        renamed: whether tensors may have other names, as those of old versions of diffusers.
    """
    try:
        with torch.device("meta"):
            network = build()
        with safe_open(path, "pt") as file:
            actual = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    except Exception as error:  # no network has such a config, or the file is damaged
        raise UserError(
            f"{path}: cannot be compared with the VAE that is described beside it "
            f"({type(error).__name__}: {error}). {REMEDY}"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    same = _sizes(actual) == _sizes(expected) if renamed else actual == expected
    if not same:
        raise UserError(
            f"{path}: the weights are of another VAE than is described beside it. {REMEDY}"
        )


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    return sorted(map(math.prod, shapes.values()))
