"""Names of tensors: ours, those of the paper's figures, and those of the published weights.

| here                             | in the paper              | in published weights               |
|----------------------------------|---------------------------|------------------------------------|
| `map.layer0.weight`              | `map-layer0`              | `emb_noise.weight`                 |
| `map.label.weight`               | `map-label`               | `emb_label.weight`                 |
| `map.features.{freqs,phases}`    |                           | `emb_fourier.{freqs,phases}`       |
| `enc.64x64-conv.weight`          | `enc-64x64-conv`          | `enc.64x64_conv.weight`            |
| `….conv0.weight`, `….conv1.…`    | `…-conv0`, `…-conv1`      | `….conv_res0.weight`, `….conv_res1.…` |
| `….skip.weight`                  | `…-skip`                  | `….conv_skip.weight`               |
| `….conditioning.affine.weight`   | `…-affine`                | `….emb_linear.weight`              |
| `….conditioning.gain`            | `…-gain`                  | `….emb_gain`                       |
| `….attention.{qkv,proj}.weight`  | `…-attention-{qkv,proj}`  | `….attn_{qkv,proj}.weight`         |
| `out_conv.weight`, `out_gain`    | `out_conv`, `out_gain`    | the same                           |
| `head.features.…`, `head.linear` |                           | `logvar_fourier.…`, `logvar_linear` |

Published names exist for config G alone. Of a denoiser, all but the head stand below `unet.`.
"""

import re
from collections.abc import Mapping

import torch

from edm2.diffusion.denoiser import Denoiser
from edm2.params import UserError

PUBLISHED = (  # patterns on our names, in order
    (r"^unet\.map\.features\.", "unet.emb_fourier."),
    (r"^unet\.map\.layer0\.", "unet.emb_noise."),
    (r"^unet\.map\.label\.", "unet.emb_label."),
    (r"^head\.features\.", "logvar_fourier."),
    (r"^head\.linear\.", "logvar_linear."),
    (r"^(unet\.(?:enc|dec)\.\d+x\d+)-", r"\1_"),
    (r"\.conv([01])\.", r".conv_res\1."),
    (r"\.skip\.", ".conv_skip."),
    (r"\.conditioning\.affine\.", ".emb_linear."),
    (r"\.conditioning\.gain$", ".emb_gain"),
    (r"\.attention\.(qkv|proj)\.", r".attn_\1."),
)


def paper_name(name: str) -> str:
    """A tensor or module of the raw network as the paper's figures call it: enc-64x64-block0-conv0."""
    return name.removesuffix(".weight").replace("conditioning.", "").replace(".", "-")


def published_name(name: str) -> str:
    """A tensor of config G's denoiser as the published weights call it."""
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def load_published(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a denoiser of config G the published weights, by name; the head may be left out.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
    """
    own = denoiser.state_dict()
    names = {published_name(name): name for name in own}
    wanted = {name for name in names if name in tensors or not name.startswith("logvar")}
    for what, found in (("missing", wanted - tensors.keys()), ("unknown", tensors.keys() - wanted)):
        if found:
            raise UserError(f"published weights: {len(found)} tensors are {what}, {min(found)} among "
                            "them. Build the denoiser with their config (G), size, resolution, "
                            "channels_in and num_classes.")  # fmt: skip
    for name in sorted(wanted):
        if tensors[name].shape != own[names[name]].shape:
            raise UserError(f"published weights: {name}: shape {tuple(tensors[name].shape)}, expected "
                            f"{tuple(own[names[name]].shape)} for this size and data.")  # fmt: skip
    denoiser.load_state_dict({names[n]: tensors[n].float() for n in wanted}, strict=False)
