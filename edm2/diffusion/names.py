"""Names of tensors: here, in the paper's figures, and in the published weights.

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

Published names exist only for config G. In the state dict of a denoiser, all names except the head's
start with `unet.`.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from edm2.params import UserError

PUBLISHED = (  # parts of names in a denoiser's state dict, and in published weights
    ("map.features.", "emb_fourier."),
    ("map.layer0.", "emb_noise."),
    ("map.label.", "emb_label."),
    ("head.features.", "logvar_fourier."),
    ("head.linear.", "logvar_linear."),
    (".conv0.", ".conv_res0."),
    (".conv1.", ".conv_res1."),
    (".skip.", ".conv_skip."),
    (".conditioning.affine.", ".emb_linear."),
    (".conditioning.gain", ".emb_gain"),
    (".attention.", ".attn_"),
)
LEVEL = r"^(unet\.(?:enc|dec)\.\d+x\d+)"  # followed by - here, by _ there

# the tensors whose EMA length the paper varies one at a time (Figure 5b, Appendix D.6)
PAPER_TENSORS = (
    "enc-64x64-conv",
    "enc-64x64-block0-affine",
    "enc-64x64-block0-conv0",
    "enc-64x64-block0-conv1",
    "enc-32x32-block0-conv0",
    "enc-32x32-block0-skip",
    "enc-16x16-block0-affine",
    "enc-16x16-block0-conv0",
    "enc-16x16-block2-conv0",
    "enc-8x8-block0-affine",
    "enc-8x8-block0-skip",
    "enc-8x8-block1-conv0",
    "enc-8x8-block2-conv0",
    "dec-8x8-block0-conv0",
    "dec-8x8-block2-skip",
    "dec-8x8-in0-affine",
    "dec-16x16-block0-affine",
    "dec-16x16-block0-conv1",
    "dec-16x16-block0-skip",
    "dec-32x32-block0-conv1",
    "dec-32x32-block0-skip",
    "dec-32x32-up-affine",
    "dec-64x64-block0-conv1",
    "dec-64x64-block0-skip",
    "dec-64x64-block3-skip",
    "dec-64x64-up-affine",
    "map-label",
    "map-layer0",
)


def paper_name(name: str) -> str:
    """Name in the paper's figures of a tensor or module of the raw network.

    `enc.64x64-block0.conv0.weight` → `enc-64x64-block0-conv0`.
    """
    return name.removesuffix(".weight").replace("conditioning.", "").replace(".", "-")


def published_name(name: str) -> str:
    """Name in the published weights of a tensor in the state dict of config G's denoiser."""
    for ours, theirs in PUBLISHED:
        name = name.replace(ours, theirs)
    return re.sub(f"{LEVEL}-", r"\1_", name)


def own_name(published: str) -> str:
    """The inverse of `published_name`."""
    for ours, theirs in PUBLISHED:
        published = published.replace(theirs, ours)
    return re.sub(f"{LEVEL}_", r"\1-", published)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The tensors whose name in the paper matches a shell-style pattern, like *-affine.

    Raises:
        UserError: no name matches.
    """
    paper_names = {name: paper_name(name) for name in names}
    matches = [name for name, paper in paper_names.items() if fnmatchcase(paper, pattern)]
    if not matches:
        known = sorted(paper_names.values())
        suggestion = (get_close_matches(pattern, known, n=1) or known)[0]
        raise UserError(
            f"sweep.tensors: {pattern!r}: expected the name of a tensor of this network, "
            f"or a pattern that matches at least one. For example {suggestion}."
        )
    return matches
