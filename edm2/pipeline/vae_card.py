"""The model card of an exported VAE."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edm2 import __version__
from edm2.data.normalization import Normalization
from edm2.params.vae import Vae
from edm2.pipeline.run_facts import git_commit

HEADER = "---\nlibrary_name: diffusers\ntags: [autoencoder, vae, edm2]\n---\n\n"
USE = """```python
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("{name}")
latents = vae.encode(images).latent_dist.mean  # images: float32 [N, 3, H, W] in [-1, 1]
images = vae.decode(latents).sample
```"""
FACTORS = """With the factors of the config, `(z - shift_factor) * scaling_factor` of the latents of {images}
has mean 0 and standard deviation 1 over all channels together. Each channel has"""
QUALITY = """PSNR is in dB. The perceptual distance is of the features of the backbone: LPIPS with `vgg16`;
`efficientnet` is EfficientNet-Lite0, trained on ImageNet; `classifier` was trained on the data set.
`rfd_DETECTOR_COUNT` is the Fréchet distance between so many held-out images and reconstructions."""
OPTIONS = (
    "channels",
    "channel_mult",
    "res_blocks",
    "latent_channels",
    "norm_groups",
    "attention",
    "attention_heads",
    "quant_convolutions",
    "variance",
    "seed",
    "batch",
    "duration_nimg",
    "backbone",
)
ZERO = "The latents have no variance. diffusers has none below exp(-30), so `latent_dist.std` is 3.1e-7."


def vae_card(
    name: str,
    params: Vae,
    images: Mapping[str, Any],
    metrics: Mapping[str, float],
    normalization: Normalization,
    normalized: str,
    manifest: Mapping[str, Any],
) -> str:
    """README.md with a YAML header, as model hubs show it. It states no license.

    Args:
        name: of the folder.
        images: manifest of data/images, or at least the resolution.
        metrics: those of reports/vae/metrics.json; none if they are not known.
        normalization: of the latents of the images that `normalized` names.
        manifest: of models/vae.
    """
    pairs = zip(normalization.mean.tolist(), normalization.std.tolist(), strict=True)
    sections = [
        f"# {name}",
        f"A VAE with latents {params.downscale}× smaller than images, of {params.latent_channels} "
        "channels, in the format of diffusers' `AutoencoderKL`.",
        USE.format(name=name),
        *[ZERO] * (params.variance == 0),
        "## Data",
        _data(params, images),
        *_quality(metrics),
        "## Latents",
        FACTORS.format(images=normalized),
        _table(("channel", "mean", "std"), ((c, *pair) for c, pair in enumerate(pairs))),
        "## Training",
        _table(("option", "value"), (_options(params) | _average(manifest)).items()),
        "## Provenance",
        f"Trained with edm2, and exported by edm2 {__version__}, {git_commit()}, from weights with "
        f"SHA-256 `{manifest['files']['network.safetensors']['sha256']}`.",
        "License: not set. State one before you publish this folder.",
    ]
    return HEADER + "\n\n".join(sections) + "\n"


def _quality(metrics: Mapping[str, float]) -> list[str]:
    values = {key: f"{v:.6g}" for key, v in metrics.items() if not key.startswith("latent/")}
    table = _table(("metric", "value"), values.items())
    return ["## Reconstructions of held-out images", table, QUALITY] if values else []


def _options(params: Vae) -> dict[str, Any]:
    """The options that are shown, by their keys in params.yaml; no path of this machine."""
    tree = params.model_dump(mode="json")
    options = {f"vae.{key}": tree[key] for key in OPTIONS}
    options |= {f"vae.images.{key}": tree["images"][key] for key in ("min_area", "flip")}
    if params.init.path is not None:
        options["vae.init"] = f"{params.init.parts} of {Path(params.init.path).name}"
    return options | {f"vae.losses.{key}": value for key, value in tree["losses"].items()}


def _average(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The EMA length of the weights; empty if they are the final ones."""
    average = manifest.get("average")
    return {} if average is None else {"EMA length": f"{average['sigma_rel']:g}"}


def _data(params: Vae, images: Mapping[str, Any]) -> str:
    """What the VAE was trained on."""
    shards, side = params.images.shards, images["resolution"]
    if shards is not None:
        return f"Images of {Path(shards).name} (`vae.images`), {side}×{side} pixels."
    if "source" not in images:
        return f"Images of a project, {side}×{side} pixels."
    counts = images["images"]
    return (
        f"{images['source']}: {counts['train']} training images and {counts['held_out']} held-out ones of "
        f"{side}×{side} pixels."
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
