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

from edm2.diffusion.backbone import Backbone
from edm2.runtime.distributed import all_reduce, ranks

Magnitudes = dict[str, torch.Tensor]
TINY = torch.finfo(torch.float32).tiny  # of weights that are still zero


def weights(network: Backbone) -> Magnitudes:
    """weights_max/<bucket> and weights_mean/<bucket>."""
    return _aggregate("weights", network, lambda layer: _magnitude(_weight(layer)))


@contextlib.contextmanager
def updates(network: Backbone) -> Iterator[Magnitudes]:
    """updates_max/<bucket> and updates_mean/<bucket>: ‖Δw‖/‖w‖ of the step taken within.

    That is the effective learning rate. Filled in on leaving.
    """
    found: Magnitudes = {}
    layers = [layer for layers in network.buckets().values() for layer in layers]
    before = {layer: _weight(layer).detach().clone() for layer in layers}
    yield found

    def relative(layer: nn.Module) -> torch.Tensor:
        change = _magnitude(_weight(layer) - before[layer])
        return change / _magnitude(_weight(layer)).clamp_min(TINY)

    found |= _aggregate("updates", network, relative)


def activations(network: Backbone, forward: Callable[[], object]) -> Magnitudes:
    """activations_max/<bucket> and activations_mean/<bucket> of one forward pass on all ranks.

    Args:
        forward: runs the network; immediate outputs of the layers are seen, bias and gain included.
    """
    squares: dict[nn.Module, torch.Tensor] = {}

    def see(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        axes = [axis for axis in range(output.ndim) if axis != 1]
        squares[layer] = output.detach().float().square().mean(axes)

    layers = [layer for layers in network.buckets().values() for layer in layers]
    if not layers:
        return {}
    handles = [layer.register_forward_hook(see) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    power = all_reduce(torch.cat([squares[layer] for layer in layers])) / ranks().size
    units = dict(zip(layers, power.sqrt().split([len(squares[la]) for la in layers]), strict=True))
    return _aggregate("activations", network, lambda layer: units[layer])


@torch.no_grad()
def _aggregate(what: str, network: Backbone, of: Callable[[nn.Module], torch.Tensor]) -> Magnitudes:
    found: Magnitudes = {}
    for bucket, layers in network.buckets().items():
        units = torch.cat([of(layer) for layer in layers])
        found[f"{what}_max/{bucket}"] = units.max()
        found[f"{what}_mean/{bucket}"] = units.mean()
    return found


def _magnitude(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1).square().mean(dim=1).sqrt()


def _weight(layer: nn.Module) -> torch.Tensor:
    return layer.get_parameter("weight")
