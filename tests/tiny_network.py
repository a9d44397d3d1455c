"""A tiny portable network of pixels, in a folder."""

import json
from pathlib import Path
from typing import Any

import torch

from edm2.data.normalization import Normalization
from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.params.configs import ConfigName
from edm2.pipeline.export_network import export_portable
from edm2.pipeline.portable import PortableNetwork
from edm2.pipeline.portable_codec import CodecDescription


def tiny_denoiser(config: ConfigName = "G", **changes: Any) -> Denoiser:
    """Of 3×8×8 pixels and 2 classes; always with the same weights."""
    torch.manual_seed(0)
    shape = {"resolution": 8, "in_channels": 3, "num_classes": 2, "channel_mult": (1, 2)}
    denoiser = build_denoiser(config, channels=8, res_blocks=1, **{**shape, **changes})
    return denoiser.eval().requires_grad_(False)


def tiny_network(**changes: Any) -> PortableNetwork:
    normalization = Normalization(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.6]))
    fields = {
        "denoiser": tiny_denoiser(),
        "codec": CodecDescription("rgb", "dataset", "nearest"),
        "normalization": normalization,
        "classes": ["cat", "dog"],
        "identity": "",
    }
    return PortableNetwork(**{**fields, **changes})


def write_network(folder: Path, **changes: Any) -> Path:
    export_portable(tiny_network(**changes), None, folder)
    return folder


def edit_config(folder: Path, *keys: str, value: Any) -> None:
    """Change a value of config.json, like a stranger who makes no manifest; `...` removes the key."""
    (folder / "manifest.json").unlink(missing_ok=True)
    tree = json.loads((folder / "config.json").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(tree))
