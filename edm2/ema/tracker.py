"""Averages of parameters, updated after each training step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edm2.ema.profile import beta, sigma_rel_to_gamma, traditional_beta
from edm2.ema.snapshot import Snapshot
from edm2.runtime.sharding import local

Tensors = Mapping[str, torch.Tensor]
EXTRA_STATE = "_extra_state"  # the last part of the names of what `get_extra_state` returns
NEW_TRACKER = "Averages cannot go on with another network: start a new tracker when it changes"


class Tracker(ABC):
    """Averages by key, held in float32, of a module's parameters or of a mapping's tensors.

    Tensors are looked up at each update: those that the module's `state_dict` has then, under its
    names. What is not averaged is copied as it is when a snapshot is taken: buffers, what
    `get_extra_state` returns, and tensors of integers. Tied weights are averaged once, for as long as
    they are tied, and are under each of their names. Averages of sharded tensors (FSDP2) are sharded.
    """

    def __init__(self, source: nn.Module | Tensors, keys: Sequence[float]) -> None:
        """
        Raises:
            ValueError: a parameter is complex or sparse, or `get_extra_state` returns no tensor.
        """
        self.source = source
        self.averages: dict[float, dict[str, torch.Tensor]] = {key: {} for key in keys}
        self.owners: dict[str, str] = {}  # name → the name under which its average is kept
        self.started = False  # from the first update on, names and shapes stay the same
        averaged, _ = self._lookup()
        self._follow({name: t for name, t in averaged.items() if not is_lazy(t)})

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The tensors that are not averaged, as they are now."""
        return self._lookup()[1]

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

        Raises:
            ValueError: a parameter was added, removed or reshaped since the first update, or has no
                values yet.
        """
        averaged, _ = self._lookup()
        self._follow(averaged)
        self.started = True
        for key, average in self.averages.items():
            current = [local(averaged[name]).detach().float() for name in average]
            weight = 1 - self.beta(key, nimg, batch)
            if current:
                torch._foreach_lerp_(list(map(local, average.values())), current, weight)

    def tensors(self, key: float) -> dict[str, torch.Tensor]:
        """One average, float32, and the tensors that are not averaged as they are now.

        Raises:
            ValueError: see `update`.
        """
        averaged, copied = self._lookup()
        self._follow(averaged)
        average = self.averages[key]
        return {name: average[owner] for name, owner in self.owners.items()} | copied

    def longest(self) -> dict[str, torch.Tensor]:
        """The average of the greatest length, as `tensors`."""
        return self.tensors(max(self.averages))

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        return {repr(key): dict(average) for key, average in self.averages.items()}

    def load_state_dict(self, state: Mapping[str, Tensors]) -> None:
        """
        Raises:
            ValueError: an average is missing.
        """
        for key, average in self.averages.items():
            saved = state.get(repr(key), {})
            owners = {name: name if name in saved else self.owners[name] for name in self.owners}
            missing = [name for name in owners.values() if name not in saved]
            if missing:
                raise ValueError(
                    f"average {key!r}: tensor {missing[0]}: not in the saved state, which is that of "
                    "another network, or of other averages"
                )
            for name, tensor in saved.items():
                kept = average.get(name)
                if kept is None or kept.shape != tensor.shape:
                    average[name] = tensor.clone()
                else:
                    kept.copy_(tensor)
        self.owners = owners | {name: name for name in saved}
        self.started = True

    def _lookup(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The tensors to average and those to copy, by name, as they are now."""
        state: Mapping[str, Any] = {} if isinstance(self.source, nn.Module) else self.source
        buffers: Tensors = {}
        parameters: Tensors = {}
        if isinstance(self.source, nn.Module):
            state = _state_dict(self.source)
            buffers = dict(self.source.named_buffers(remove_duplicate=False))
            parameters = dict(self.source.named_parameters())
        buffer_ids, parameter_ids = ({id(t) for t in ts.values()} for ts in (buffers, parameters))
        averaged, copied = {}, {}
        for name, value in state.items():
            tensor = _tensor(name, value)
            is_buffer = name in buffers or id(tensor) in buffer_ids
            extra = name.rpartition(".")[2] == EXTRA_STATE
            if extra or (is_buffer and id(tensor) not in parameter_ids) or not _real(name, tensor):
                copied[name] = tensor if is_lazy(tensor) else tensor.detach()
            else:
                averaged[name] = tensor
        return averaged, copied

    def _follow(self, current: Tensors) -> None:
        """Have one average for each tensor, in its shape and on its device; one for all tied ones.

        Weights that are no longer tied go on from the same average. Those tied later keep their own.
        """
        for name in sorted(current.keys() ^ self.owners.keys()) if self.started else ():
            change = "added" if name in current else "removed"
            raise ValueError(f"tensor {name}: {change} since the first update. {NEW_TRACKER}")
        first: dict[tuple[int, str | None], str] = {}
        owners = {
            name: first.setdefault((id(tensor), self.owners.get(name)), name)
            for name, tensor in current.items()
        }
        for key, average in self.averages.items():
            self.averages[key] = {
                name: self._average(average, name, current[name])
                for name in dict.fromkeys(owners.values())
            }
        self.owners = owners

    def _average(self, averages: Tensors, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The average that goes on with `tensor`: a new one, until the first update."""
        if is_lazy(tensor):
            raise ValueError(
                f"tensor {name}: has no values yet. Run the module once before its averages are used"
            )
        owner = self.owners.get(name, name)
        average = averages.get(name, averages.get(owner))
        if average is None or (average.shape != tensor.shape and not self.started):
            return tensor.detach().float().clone()
        if average.shape != tensor.shape:
            raise ValueError(
                f"tensor {name}: shape {list(tensor.shape)}, expected {list(average.shape)} as in the "
                f"first update. {NEW_TRACKER}"
            )
        return average.to(tensor.device, copy=name not in averages)


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


def _state_dict(module: nn.Module) -> Mapping[str, Any]:
    """The module's `state_dict` with the parameters themselves, by which tied ones are recognized."""
    try:
        return module.state_dict(keep_vars=True)
    except TypeError:  # a method of the module's own, without this argument
        return module.state_dict()


def _tensor(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    raise ValueError(
        f"{name}: a {type(value).__name__} in the module's state_dict, expected a tensor: snapshots "
        "hold tensors. Let `get_extra_state` return one, or track a mapping of the module's tensors"
    )


def _real(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor can be averaged; not if it is of integers."""
    if tensor.is_complex() or tensor.layout != torch.strided:
        raise ValueError(
            f"tensor {name}: {tensor.dtype}, {tensor.layout}: expected real values, not sparse ones. "
            "Register two real parameters instead, or a dense one"
        )
    return tensor.is_floating_point()
