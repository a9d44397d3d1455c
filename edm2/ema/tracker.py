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

    Floating-point parameters are averaged; buffers are copied as they are when asked for.
    """

    def __init__(self, source: nn.Module | Tensors, keys: Sequence[float]) -> None:
        if isinstance(source, nn.Module):
            self.parameters: Tensors = dict(source.named_parameters())
            self.buffers: Tensors = dict(source.named_buffers())
        else:
            self.parameters, self.buffers = source, {}
        self.averages = {
            key: {name: p.detach().float().clone() for name, p in self.parameters.items()}
            for key in keys
        }

    @abstractmethod
    def beta(self, key: float, nimg: int, batch: int) -> float:
        """Weight of the old average in the update that ends at time `nimg`."""

    @abstractmethod
    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        """All averages as they stand at time `nimg`, to be written."""

    @torch.no_grad()
    def update(self, nimg: int, batch: int) -> None:
        """Take in the current parameters.

        Args:
            nimg: images seen in training, this step's batch included.
            batch: images in this step.
        """
        current = [p.detach().float() for p in self.parameters.values()]
        for key, average in self.averages.items():
            weight = 1 - self.beta(key, nimg, batch)
            torch._foreach_lerp_(list(average.values()), current, weight)

    def tensors(self, key: float) -> dict[str, torch.Tensor]:
        """One average, float32, with the current buffers."""
        buffers = {name: buffer.detach() for name, buffer in self.buffers.items()}
        return {**self.averages[key], **buffers}

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
        """
        self.gammas = {sigma_rel: sigma_rel_to_gamma(sigma_rel) for sigma_rel in sigma_rels}
        super().__init__(source, sigma_rels)

    def beta(self, key: float, nimg: int, batch: int) -> float:
        return beta(self.gammas[key], nimg, batch)

    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        return {Snapshot.power(nimg, length): self.tensors(length) for length in self.averages}


class TraditionalEMA(Tracker):
    """The one average of EDM: a fixed half-life, shorter in early training (EDM2 config A)."""

    def __init__(self, source: nn.Module | Tensors, halflife_nimg: float, rampup: float) -> None:
        """
        Args:
            source: what is averaged, a module or a mapping of named tensors; read at each update.
            halflife_nimg: in images.
            rampup: half-life over training time so far, at most.
        """
        self.halflife_nimg, self.rampup = halflife_nimg, rampup
        super().__init__(source, [halflife_nimg])

    def beta(self, key: float, nimg: int, batch: int) -> float:
        return traditional_beta(nimg, batch, key, self.rampup)

    def snapshots(self, nimg: int) -> dict[Snapshot, dict[str, torch.Tensor]]:
        snapshot = Snapshot.traditional(nimg, self.halflife_nimg, self.rampup)
        return {snapshot: self.tensors(self.halflife_nimg)}
