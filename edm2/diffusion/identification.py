"""Which network a set of tensors belongs to, read from their names and shapes; for errors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from edm2.diffusion.backbone import Backbone, Shape
from edm2.diffusion.denoiser import Denoiser
from edm2.params.configs import CONFIGS
from edm2.params.seams import BACKBONES

FIRST_CONV = re.compile(r"enc\.(\d+)x\1-block0\.conv0\.weight")


@dataclass(frozen=True)
class UnetDescription:
    """What the tensors of a U-Net say about it.

    Attributes:
        widths: channels of each level.
        attention: resolutions whose blocks attend.
        resolution, in_channels, num_classes, res_blocks: see `Shape`.
    """

    widths: tuple[int, ...]
    attention: tuple[int, ...]
    resolution: int
    in_channels: int
    num_classes: int
    res_blocks: int

    @property
    def shape(self) -> Shape:
        """Raises ValueError if a number is beyond those of networks."""
        mult = tuple(width // self.widths[0] for width in self.widths)
        return Shape(
            self.resolution,
            self.in_channels,
            self.num_classes,
            self.widths[0],
            mult,
            self.res_blocks,
        )


FIELDS = {  # of a description, in the words of params.yaml
    "widths": "widths of the levels (diffusion.size or channels, times channel_mult)",
    "attention": "resolutions with attention (diffusion.attention_resolutions)",
    "resolution": "resolution of the latents",
    "in_channels": "channels of the latents",
    "num_classes": "number of classes (0: diffusion.conditional is false)",
    "res_blocks": "diffusion.res_blocks",
}


def mismatch(tensors: Mapping[str, torch.Tensor], denoiser: Denoiser) -> str:
    """In what tensors differ from the raw network of a denoiser, and what to do; empty: in nothing."""
    expected, actual = _shapes(denoiser.unet.state_dict()), _shapes(tensors)
    if actual == expected:
        return ""
    theirs, ours = describe_shapes(actual), describe_shapes(expected)
    if theirs is None or ours is None:
        name = min(n for n in expected | actual if expected.get(n) != actual.get(n))
        return (
            "its tensors are not those of the network that `diffusion` describes, for example "
            f"{name}: shape {actual.get(name)}, expected {expected.get(name)}. Use a network of "
            "models/sweep/<config>/, or one that was trained with these params."
        )
    configs = _configs(theirs, actual)
    differences = [
        f"{words}: {getattr(theirs, field)}, expected {getattr(ours, field)}"
        for field, words in FIELDS.items()
        if getattr(theirs, field) != getattr(ours, field)
    ]
    name = next((key for key, config in CONFIGS.items() if config.name == denoiser.config.name), "")
    if configs and name not in configs:
        return (
            f"its config is {' or '.join(configs)}, expected {name}. Use a network of config {name}, "
            f"or --config {configs[0]}."
        )
    if not differences:
        return (
            f"its options are not those of config {name}. Set diffusion.overrides as in the training "
            "of this network."
        )
    return f"{'; '.join(differences)}. Set these as in the training of this network."


def describe_shapes(shapes: Mapping[str, tuple[int, ...]]) -> UnetDescription | None:
    """The U-Net whose raw network has tensors of these names and shapes; None for other networks."""
    widths = {
        int(match[1]): shape[0]
        for name, shape in shapes.items()
        if (match := FIRST_CONV.fullmatch(name))
    }
    sides = sorted(widths, reverse=True)
    if not sides or "out_conv.weight" not in shapes:
        return None
    first = f"enc.{sides[0]}x{sides[0]}-block"
    return UnetDescription(
        widths=tuple(widths[side] for side in sides),
        attention=tuple(s for s in sides if f"enc.{s}x{s}-block0.attention.qkv.weight" in shapes),
        resolution=sides[0],
        in_channels=shapes["out_conv.weight"][0],
        num_classes=shapes.get("map.label.weight", (0, 0))[1],
        res_blocks=sum(n.startswith(first) and n.endswith(".conv0.weight") for n in shapes),
    )


def _configs(network: UnetDescription, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The training configs whose network has these tensors."""
    try:
        shape = network.shape
    except ValueError:  # of sizes that no network has
        return []
    names = []
    for name, config in CONFIGS.items():
        config = replace(config, attention_resolutions=network.attention)
        with torch.device("meta"):
            unet: Backbone = BACKBONES[config.backbone](config, shape)
        if _shapes(unet.state_dict()) == shapes:
            names.append(name)
    return names


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
