"""Networks that EDM2's authors published, with all that sampling from them needs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edm2.data.normalization import SIGMA_DATA, Normalization
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.names import published_name
from edm2.diffusion.published import infer_denoiser, load_published
from edm2.ema.pickles import Published, PublishedEncoder, read_encoder, read_published
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.pipeline.portable import PortableNetwork
from edm2.pipeline.portable_codec import CodecDescription
from edm2.pipeline.published import NAME, time_in_images
from edm2.runtime.files import sha256
from edm2.runtime.finite import listed, nonfinite_tensors
from edm2.runtime.limits import shown
from edm2.vae.codec import Rgb
from edm2.vae.published import REPOSITORY
from edm2.vae.stable_diffusion import PAPER

AUTHORS_PREFIX = "edm2-img"  # of the names of files that EDM2's authors published
PUBLISHED_LICENSE = "cc-by-nc-sa-4.0"  # of these
ENCODERS = ("StandardRGBEncoder", "StabilityVAEEncoder")
CONSTANTS = {"scale", "bias", "raw_mean", "raw_std", "final_mean", "final_std"}
BY_CHANNELS = {3: ENCODERS[0], 4: ENCODERS[1]}  # which one a file without an encoder needs


def read_published_network(path: Path) -> PortableNetwork:
    """The network of a published pickle, read without running its code, on the CPU.

    A file without an encoder has the one of its number of channels, with a note.

    Raises:
        UserError: the file cannot be read safely; it holds another network than EDM2's config G; or its
            encoder is unknown.
        NotFiniteError: a weight is not finite.
    """
    published = read_published(path)
    denoiser = _denoiser(published, path)
    codec, normalization = _codec(published.encoder, denoiser, path)
    return PortableNetwork(
        denoiser=denoiser,
        codec=codec,
        normalization=normalization,
        classes=[str(number) for number in range(denoiser.shape.num_classes)],
        identity=sha256(path),
        provenance=_provenance(path, published),
    )


def _provenance(path: Path, published: Published) -> dict[str, Any]:
    """As in `config.json` of an exported network; time and EMA length are read from the file's name."""
    published_by_authors = path.name.startswith(AUTHORS_PREFIX)
    tree: dict[str, Any] = {
        "network": path.stem,
        "program": "the program of its authors",
        "published": published_by_authors,
        "license": PUBLISHED_LICENSE if published_by_authors else None,
    }
    if published.arguments.get("use_fp16"):
        tree["precision"] = "fp16"
    if match := NAME.fullmatch(path.name):
        nimg, length = time_in_images(int(match[2])), float(match[3])
        tree["average"] = {"average": "power", "nimg": nimg, "ema_length": length}
    return tree


def _denoiser(published: Published, path: Path) -> Denoiser:
    if published.other_arguments:
        raise UserError(
            f"{path}: arguments of its network are no plain values: "
            f"{shown(', '.join(published.other_arguments))}. Use a network of EDM2's authors."
        )
    names = nonfinite_tensors(published.tensors)
    if names:
        raise NotFiniteError(
            f"{path}: tensors of this network are not finite ({listed(names)}). Its training diverged, "
            "or the file is damaged: use another network."
        )
    denoiser = infer_denoiser(published.tensors, published.arguments, path)
    if any(published_name(name) not in published.tensors for name in denoiser.state_dict()):
        denoiser.head = None  # the only part that may be missing
    denoiser = denoiser.to_empty(device="cpu")
    load_published(denoiser, published.tensors)
    return denoiser.eval().requires_grad_(False)


def _codec(record: Any, denoiser: Denoiser, path: Path) -> tuple[CodecDescription, Normalization]:
    channels = denoiser.shape.in_channels
    encoder = _inferred(channels, path) if record is None else read_encoder(record, path)
    if encoder.class_name not in ENCODERS:
        raise UserError(
            f"{path}: its encoder is {encoder.class_name}, expected one of {', '.join(ENCODERS)}. Images of "
            "other latents cannot be made here."
        )
    if BY_CHANNELS.get(channels) != encoder.class_name:
        raise UserError(
            f"{path}: a network of {channels} channels with the encoder {encoder.class_name}: expected "
            f"{', '.join(f'{n} with {name}' for n, name in BY_CHANNELS.items())}. Use another file."
        )
    if encoder.class_name == ENCODERS[0]:
        rgb = Rgb("paper").normalization
        assert rgb is not None
        return CodecDescription("rgb", "paper"), rgb
    name = encoder.values.get("vae_name", REPOSITORY)
    if not isinstance(name, str) or name != REPOSITORY:
        raise UserError(
            f"{path}: its latents are of the VAE {shown(repr(name))}, expected {REPOSITORY!r}. Images of "
            "others cannot be made here."
        )
    return CodecDescription("stable_diffusion", "paper", "truncate"), _constants(encoder, path)


def _inferred(channels: int, path: Path) -> PublishedEncoder:
    name = BY_CHANNELS.get(channels)
    if name is None:
        raise UserError(
            f"{path}: has no encoder, and none is known for {channels} channels (3: pixels; 4: latents of "
            "Stable Diffusion's VAE). Use a file with an encoder."
        )
    print(f"note: {path}: has no encoder; {name} is taken, as its network has {channels} channels.")
    return PublishedEncoder(name, {})


def _constants(encoder: PublishedEncoder, path: Path) -> Normalization:
    """Mean and standard deviation of the latents, from what the encoder does: latents · scale + bias."""
    try:
        values = {
            name: np.asarray(encoder.values[name], np.float64)
            for name in CONSTANTS & encoder.values.keys()
        }
        ratio = values.get("final_std", SIGMA_DATA) / values.get(
            "raw_std", PAPER.std.double().numpy()
        )
        scale = np.broadcast_to(np.ravel(values.get("scale", ratio)), 4)
        shift = (
            values.get("final_mean", 0.0)
            - values.get("raw_mean", PAPER.mean.double().numpy()) * scale
        )
        bias = np.broadcast_to(np.ravel(values.get("bias", shift)), 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: the constants of its encoder cannot be read ({error}): expected numbers of 4 "
            "channels. Use a network pickle of EDM2's authors."
        ) from None
    if not (np.isfinite([scale, bias]).all() and (scale > 0).all()):
        raise NotFiniteError(
            f"{path}: the constants of its encoder are not finite, or its scale is not positive: scale "
            f"{scale.tolist()}, bias {bias.tolist()}. Use another file."
        )
    mean, std = (torch.from_numpy(values).float() for values in (-bias / scale, SIGMA_DATA / scale))
    return Normalization(mean, std)
