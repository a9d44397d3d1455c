"""Magnitudes of activations, weights and updates, by part of the network (EDM2 Figures 3 and 15).

The magnitude of an output unit is the root mean square of its row: of its weights, of its outputs
over samples and pixels, or of its update over that of its weights. Unit-normal data gives 1. Units
of all layers in the residual blocks count (input and output convolution, embedding and gains do
not), by bucket: encoder or decoder at one resolution.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from edm2.diffusion.blocks import Block
from edm2.diffusion.layers import Layer
from edm2.diffusion.unet import Unet
from edm2.runtime.distributed import all_reduce, ranks

Magnitudes = dict[str, torch.Tensor]
TINY = torch.finfo(torch.float32).tiny  # of weights that are still zero


def buckets(unet: Unet) -> dict[str, list[Layer]]:
    """Layers of the residual blocks by bucket, named enc-64x64 and so on."""
    found: dict[str, list[Layer]] = {}
    for part, modules in (("enc", unet.enc), ("dec", unet.dec)):
        for name, block in modules.items():
            if isinstance(block, Block):
                layers = [m for m in block.modules() if isinstance(m, Layer)]
                found.setdefault(f"{part}-{name.partition('-')[0]}", []).extend(layers)
    return found


def weights(unet: Unet) -> Magnitudes:
    """weights_max/<bucket> and weights_mean/<bucket>."""
    return _aggregate("weights", unet, lambda layer: _magnitude(layer.weight))


@contextlib.contextmanager
def updates(unet: Unet) -> Iterator[Magnitudes]:
    """updates_max/<bucket> and updates_mean/<bucket>: ‖Δw‖/‖w‖ of the step taken within.

    That is the effective learning rate. Filled in on leaving.
    """
    found: Magnitudes = {}
    layers = [layer for layers in buckets(unet).values() for layer in layers]
    before = {layer: layer.weight.detach().clone() for layer in layers}
    yield found

    def relative(layer: Layer) -> torch.Tensor:
        change = _magnitude(layer.weight - before[layer])
        return change / _magnitude(layer.weight).clamp_min(TINY)

    found |= _aggregate("updates", unet, relative)


def activations(unet: Unet, forward: Callable[[], object]) -> Magnitudes:
    """activations_max/<bucket> and activations_mean/<bucket> of one forward pass on all ranks.

    Args:
        forward: runs the network; immediate outputs of the layers are seen, bias and gain included.
    """
    squares: dict[nn.Module, torch.Tensor] = {}

    def see(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        axes = [axis for axis in range(output.ndim) if axis != 1]
        squares[layer] = output.detach().float().square().mean(axes)

    layers = [layer for layers in buckets(unet).values() for layer in layers]
    handles = [layer.register_forward_hook(see) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    power = all_reduce(torch.cat([squares[layer] for layer in layers])) / ranks().size
    units = dict(zip(layers, power.sqrt().split([len(squares[la]) for la in layers]), strict=True))
    return _aggregate("activations", unet, lambda layer: units[layer])


@torch.no_grad()
def _aggregate(what: str, unet: Unet, of: Callable[[Layer], torch.Tensor]) -> Magnitudes:
    found: Magnitudes = {}
    for bucket, layers in buckets(unet).items():
        units = torch.cat([of(layer) for layer in layers])
        found[f"{what}_max/{bucket}"] = units.max()
        found[f"{what}_mean/{bucket}"] = units.mean()
    return found


def _magnitude(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1).square().mean(dim=1).sqrt()
