"""Layers of a network: output shapes, parameters, multiply-adds."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.names import paper_name


@dataclass(frozen=True)
class LayerRow:
    """One part of the raw network, applied to one image.

    Attributes:
        name: as in the paper's figures.
        output_shape: without the batch dimension.
        parameters: number of parameters.
        multiply_adds: of convolutions and matrix products.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layer_table(denoiser: Denoiser) -> tuple[list[LayerRow], LayerRow]:
    """The parts of the raw network that have parameters or multiply-adds, and their total.

    For a denoiser on the meta device nothing is computed.
    """
    unet = denoiser.unet
    output_shapes, flops = _trace(denoiser)

    def own_flops(module: nn.Module) -> int:
        return flops[module] - sum(flops[child] for child in module.children())

    rows = [
        LayerRow(
            _name(path),
            output_shapes.get(module, ()),
            sum(p.numel() for p in module.parameters(recurse=False)),
            own_flops(module) // 2,
        )
        for path, module in unet.named_modules()
    ]
    rows = [row for row in rows if row.parameters or row.multiply_adds]
    total = LayerRow(
        "total",
        output_shapes[unet],
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
    )
    return rows, total


def _trace(
    denoiser: Denoiser,
) -> tuple[dict[nn.Module, tuple[int, ...]], dict[nn.Module, int]]:
    """Output shape and floating-point operations of each module in one forward pass."""
    unet, shape = denoiser.unet, denoiser.shape
    device = next(unet.parameters()).device
    output_shapes: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, _: object, output: torch.Tensor) -> None:
        output_shapes[module] = tuple(output.shape[1:])

    handles = [module.register_forward_hook(record) for module in unet.modules()]
    x = torch.zeros(1, shape.in_channels, shape.resolution, shape.resolution, device=device)
    labels = torch.zeros(1, shape.num_classes, device=device) if shape.num_classes else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(x, torch.zeros(1, device=device), labels)
    for handle in handles:
        handle.remove()
    counts = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    root, flops = type(unet).__name__, dict[nn.Module, int]()
    for path, module in reversed(list(unet.named_modules())):  # children before their parents
        # containers are not called themselves, so the counter has no entry for them
        in_children = sum(flops[child] for child in module.children())
        flops[module] = counts.get(f"{root}.{path}" if path else root, in_children)
    return output_shapes, flops


def _name(path: str) -> str:
    """Name in the paper; a module whose only parameter is a gain has the name of the gain."""
    if path == "":
        return "out_gain"
    if path.endswith(".conditioning"):
        path = path.replace("conditioning", "gain")
    return paper_name(path)
