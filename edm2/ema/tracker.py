"""Averages of parameters, updated after each training step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edm2.ema.profile import beta, sigma_rel_to_gamma, traditional_beta
from edm2.ema.store import Snapshot

Tensors = Mapping[str, torch.Tensor]


class Tracker(ABC):
    """Averages by key, held in float32.

    Parameters are averaged; buffers are copied as they are when a snapshot is taken. Averages have
    the names of the module's `state_dict`, tied weights under each of their names.
    """

    def __init__(self, source: nn.Module | Tensors, keys: Sequence[float]) -> None:
        """
        Raises:
            ValueError: a parameter is complex.
        """
        self.source = source
        if isinstance(source, nn.Module):
            self.parameters: Tensors = dict(source.named_parameters())
            averaged = {id(p): name for name, p in self.parameters.items()}
            tied = source.named_parameters(remove_duplicate=False)
            self.names = {name: averaged[id(p)] for name, p in tied}
        else:
            self.parameters = source
            self.names = {name: name for name in source}
        for name, p in self.parameters.items():
            if p.is_complex():
                raise ValueError(f"tensor {name}: {p.dtype}: expected real values")
        self.averages = {
            key: {name: p.detach().float().clone() for name, p in self.parameters.items()}
            for key in keys
        }

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The buffers that the module's `state_dict` has, as they are now; a mapping has none."""
        if not isinstance(self.source, nn.Module):
            return {}
        names = self.source.state_dict().keys()
        buffers = self.source.named_buffers(remove_duplicate=False)
        return {name: buffer.detach() for name, buffer in buffers if name in names}

    @abstractmethod
    def beta(self, key: float, nimg: int, batch: int) -> float:
        """Weight of the old average in the update that ends at time `nimg`."""

    @abstractmethod
    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        """All averages as they are at time `nimg`, to be written."""

    @torch.no_grad()
    def update(self, nimg: int, batch: int) -> None:
        """Add the current parameters to the averages.

        Args:
            nimg: images seen in training, including this step's batch.
            batch: images in this step.
        """
        current = [p.detach().float() for p in self.parameters.values()]
        for key, average in self.averages.items():
            weight = 1 - self.beta(key, nimg, batch)
            torch._foreach_lerp_(list(average.values()), current, weight)

    def tensors(self, key: float) -> dict[str, torch.Tensor]:
        """One average, float32, with the current buffers."""
        average = self.averages[key]
        return {name: average[source] for name, source in self.names.items()} | self.buffers

    def longest(self) -> dict[str, torch.Tensor]:
        """The average of the greatest length, as `tensors`."""
        return self.tensors(max(self.averages))

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        return {repr(key): dict(average) for key, average in self.averages.items()}

    def load_state_dict(self, state: Mapping[str, Tensors]) -> None:
        for key, average in self.averages.items():
            for name, tensor in average.items():
                tensor.copy_(state[repr(key)][name])


class PowerEMA(Tracker):
    """Power-function averages of several lengths at once (EDM2 eq. 127)."""

    def __init__(self, source: nn.Module | Tensors, sigma_rels: Sequence[float]) -> None:
        """
        Args:
            source: what is averaged, a module or a mapping of named tensors; read at each update.
            sigma_rels: EMA lengths, each within (0, 0.2886).

        Raises:
            ValueError: an impossible length, or a complex parameter.
        """
        self.gammas = {sigma_rel: sigma_rel_to_gamma(sigma_rel) for sigma_rel in sigma_rels}
        super().__init__(source, sigma_rels)

    def beta(self, key: float, nimg: int, batch: int) -> float:
        return beta(self.gammas[key], nimg, batch)

    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        return {Snapshot.power(nimg, length): self.tensors(length) for length in self.averages}


class TraditionalEMA(Tracker):
    """The single average of EDM: a fixed half-life, shorter early in training (EDM2 config A)."""

    def __init__(self, source: nn.Module | Tensors, halflife_nimg: float, rampup: float) -> None:
        """
        Args:
            source: what is averaged, a module or a mapping of named tensors; read at each update.
            halflife_nimg: in images.
            rampup: upper limit of the half-life, relative to the training time so far.

        Raises:
            ValueError: a complex parameter.
        """
        self.halflife_nimg, self.rampup = halflife_nimg, rampup
        super().__init__(source, [halflife_nimg])

    def beta(self, key: float, nimg: int, batch: int) -> float:
        return traditional_beta(nimg, batch, key, self.rampup)

    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        snapshot = Snapshot.traditional(nimg, self.halflife_nimg, self.rampup)
        return {snapshot: self.tensors(self.halflife_nimg)}
