"""The VAE that a training starts from: the options of its network, compared with those of `vae`."""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any

from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.errors import Problem
from edm2.params.vae import Vae
from edm2.params.vae_manifest import stored_options
from edm2.params.vae_network import attention_heads, norm_groups

RESULT = "models/vae"  # of the stage that trains
MANIFEST = "manifest.json"  # of RESULT
HINT = "Set vae.init.path to another folder, or to null."
SAME = ("res_blocks", "latent_channels", "attention", "quant_convolutions", "high_resolution")
ENCODERS = ("wavelet",)  # options without effect on the decoder
SUPPORTED = {  # of the configs of diffusers
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}
DEFAULTS = {  # of diffusers, for what older configs do not have
    **SUPPORTED,
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}


def init_problems(vae: Vae, root: Path) -> Iterator[Problem]:
    """
    Args:
        root: folder that relative paths start from.
    """
    init = vae.init
    if init.path is None:
        if init.parts != "all":
            yield Problem(
                "vae.init.parts",
                init.parts,
                "all with vae.init.path: null",
                "Set vae.init.path to the folder of a VAE.",
            )
        return
    folder = root / init.path
    autoencoder = (folder / CONFIG).is_file()
    if not autoencoder and not (folder / MANIFEST).is_file():
        yield Problem(
            "vae.init.path",
            init.path,
            f"the folder models/vae of another project, or one with {CONFIG} and {WEIGHTS}",
            f"Looked for {folder}. Or set it to null: random weights.",
        )
    elif folder.resolve() == (root / RESULT).resolve():
        yield Problem(
            "vae.init.path",
            init.path,
            "another folder than that of the result, which is removed before the stage runs",
            f"Copy {RESULT} and name the copy.",
        )
    elif autoencoder and find_spec("diffusers") is None:
        yield Problem(
            "vae.init.path",
            init.path,
            "the package diffusers to be installed: the folder has an AutoencoderKL",
            "Install it: pip install 'edm2[sd]'.",
        )
    else:
        yield from _network_problems(vae, folder)


def _network_problems(vae: Vae, folder: Path) -> Iterator[Problem]:
    try:
        source = initial_options(vae, folder)
    except ValueError as error:
        yield Problem("vae.init.path", vae.init.path, "a VAE to start from", f"{error} {HINT}")
    else:
        yield from differences(vae, source)


def initial_options(vae: Vae, folder: Path) -> Vae:
    """The options of the network in a folder; other fields are those of `vae`, or of its own training.

    Raises:
        ValueError: they cannot be read, or are those of another kind of network; says where and which.
    """
    path = folder / CONFIG
    if not path.is_file():
        path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == CONFIG:
            return vae.model_copy(update=_autoencoder_options(content))
        if content["kind"] != "trained":
            raise ValueError(f"a codec of the kind {content['kind']} has no network to start from.")
        return stored_options(content["vae"])
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _autoencoder_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that describe an `AutoencoderKL` of diffusers."""
    config = {**DEFAULTS, **config}
    for key, expected in SUPPORTED.items():
        value = config[key]
        if {*value} - {expected} if isinstance(value, list | tuple) else value != expected:
            raise ValueError(f"{key}: {value!r}: expected {expected!r}.")
    if config["use_quant_conv"] != config["use_post_quant_conv"]:
        raise ValueError("use_quant_conv and use_post_quant_conv: expected both or neither.")
    widths = config["block_out_channels"]
    return {
        "channels": gcd(*widths),
        "channel_mult": tuple(width // gcd(*widths) for width in widths),
        "res_blocks": config["layers_per_block"],
        "latent_channels": config["latent_channels"],
        "norm_groups": config["norm_num_groups"],
        "attention": config["mid_block_add_attention"],
        "attention_heads": 1,
        "quant_convolutions": config["use_quant_conv"],
        "wavelet": False,
        "high_resolution": False,
        "variance": "learned",
    }


def differences(vae: Vae, source: Vae) -> Iterator[Problem]:
    """The options by which the network of `vae` cannot start from that of `source`."""
    decoder_only = vae.init.parts == "decoder"
    keys = SAME if decoder_only else SAME + ENCODERS
    ours, theirs = (
        _shape(options) | {f"vae.{key}": getattr(options, key) for key in keys}
        for options in (vae, source)
    )
    for key, value in theirs.items():
        if ours[key] != value and not (key == "vae.attention_heads" and 0 in (value, ours[key])):
            yield Problem(
                key,
                ours[key],
                f"{value}, as the network of vae.init.path has it",
                "Set it, or choose another folder.",
            )
    if not decoder_only and vae.variance == "learned" and source.variance != "learned":
        yield Problem("vae.variance", "learned", "a number: the encoder there gives none", HINT)


def _shape(vae: Vae) -> dict[str, Any]:
    """Widths of the levels, groups of the norms and heads: params describe the same in several ways."""
    widths = [vae.channels * mult for mult in vae.channel_mult]
    groups = sorted({norm_groups(width, vae.norm_groups) for width in widths})
    return {
        "vae.channels, vae.channel_mult": widths,
        "vae.norm_groups": groups[0] if len(groups) == 1 else groups,
        "vae.attention_heads": attention_heads(widths[-1], vae.attention_heads)
        if vae.attention
        else 0,
    }
