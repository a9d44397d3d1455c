"""Magnitudes of weights, activations and updates by part of the network (EDM2 Figures 3 and 15).

Each output unit of a layer has a magnitude: the root mean square of its weights, or of its outputs
over samples and pixels, or that of its update divided by that of its weights. Unit-normal data has
magnitude 1. The layers in the residual blocks are grouped into buckets, encoder or decoder at one
resolution; input and output convolution, embedding and gains are left out.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from edm2.diffusion.backbone import Backbone
from edm2.runtime.distributed import all_reduce, ranks
from edm2.runtime.sharding import local, whole

Magnitudes = dict[str, torch.Tensor]  # scalar tensors
TINY = torch.finfo(torch.float32).tiny  # smallest divisor, for weights that were and are zero


def weights(network: Backbone) -> Magnitudes:
    """weights_max/<bucket> and weights_mean/<bucket>."""
    return _aggregate("weights", network, lambda layer: _magnitudes(_weight(layer)))


@contextlib.contextmanager
def replaced_parameters(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Context in which the parameters of `module` have the values of `tensors`, by name, and these have
    those of the parameters.

    Values are exchanged in place, because FSDP2 keeps the memory of parameters; that takes as much
    more memory as one parameter. Other names in `tensors` are ignored.
    """
    pairs = [(local(p.detach()), local(tensors[name])) for name, p in module.named_parameters()]
    _exchange(pairs)
    try:
        yield
    finally:
        _exchange(pairs)


def _exchange(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for a, b in pairs:
        values = a.clone()
        a.copy_(b)
        b.copy_(values)


@contextlib.contextmanager
def updates(network: Backbone) -> Iterator[Magnitudes]:
    """updates_max/<bucket> and updates_mean/<bucket> of the optimizer step in this context.

    ‖Δw‖/‖w‖ is the effective learning rate. The mapping is filled on exit.
    """
    old = {layer: _weight(layer).detach().clone() for layer in _layers(network)}
    result: Magnitudes = {}
    yield result

    def relative_updates(layer: nn.Module) -> torch.Tensor:
        change = _magnitudes(_weight(layer) - old[layer])
        return change / _magnitudes(_weight(layer)).clamp_min(TINY)

    result |= _aggregate("updates", network, relative_updates)


def activations(network: Backbone, forward: Callable[[], object]) -> Magnitudes:
    """activations_max/<bucket> and activations_mean/<bucket> of one forward pass on all ranks.

    Args:
        forward: runs the network. The outputs of its layers are measured, bias and gain included.
    """
    mean_squares: dict[nn.Module, torch.Tensor] = {}

    def record(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        axes = [axis for axis in range(output.ndim) if axis != 1]
        mean_squares[layer] = output.detach().float().square().mean(axes)

    layers = _layers(network)
    if not layers:
        return {}
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    power = all_reduce(torch.cat([mean_squares[layer] for layer in layers])) / ranks().world_size
    split = power.sqrt().split([len(mean_squares[layer]) for layer in layers])
    magnitudes = dict(zip(layers, split, strict=True))
    return _aggregate("activations", network, lambda layer: magnitudes[layer])


def _layers(network: Backbone) -> list[nn.Module]:
    return [layer for layers in network.buckets().values() for layer in layers]


@torch.no_grad()
def _aggregate(
    name: str, network: Backbone, magnitudes: Callable[[nn.Module], torch.Tensor]
) -> Magnitudes:
    """Maximum and mean over the output units of each bucket; `magnitudes`: layer → [units]."""
    result: Magnitudes = {}
    for bucket, layers in network.buckets().items():
        units = torch.cat([magnitudes(layer) for layer in layers])
        result[f"{name}_max/{bucket}"] = units.max()
        result[f"{name}_mean/{bucket}"] = units.mean()
    return result


def _magnitudes(weight: torch.Tensor) -> torch.Tensor:
    """Root mean square of each output unit: [units, ...] → [units]."""
    return whole(weight.flatten(1).square().mean(dim=1).sqrt())


def _weight(layer: nn.Module) -> torch.Tensor:
    return layer.get_parameter("weight")
