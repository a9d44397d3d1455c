"""Averages of any length, made from a snapshot store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from edm2.ema.combine import combine
from edm2.ema.profile import Array, Power
from edm2.ema.solve import solve_profiles
from edm2.ema.store import Snapshot, SnapshotStore, write_tensors
from edm2.ema.tensorfile import TensorReader, TensorWriter
from edm2.params import UserError
from edm2.params.configs import Average
from edm2.runtime.files import replacing

TRUSTED_ERROR = 0.05
Column = tuple[Array, float]  # weights of the snapshots, and the error that they leave


@dataclass(frozen=True)
class Target:
    """A wanted average.

    Attributes:
        sigma_rel: its EMA length.
        nimg: time in images at which it ends; None: the end of training.
        others: another EMA length for single tensors, by name.
    """

    sigma_rel: float
    nimg: int | None = None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstructed average is.

    Attributes:
        sigma_rel, nimg: its length, and the time in images at which it ends.
        average: "power"; or "traditional", stored as it is, sigma_rel being its effective length.
        error: relative L2 error of its response function, the worst of its lengths.
        weight_sum: sum of the snapshots' weights; 1 for a true average.
        snapshots: how many snapshots took part.
    """

    sigma_rel: float
    nimg: int
    average: Average
    error: float
    weight_sum: float
    snapshots: int

    @property
    def trustworthy(self) -> bool:
        """Whether the response function is near enough to the wanted one."""
        return self.error < TRUSTED_ERROR


def reconstruct(
    store: SnapshotStore, sigma_rels: Sequence[float], nimg: int | None = None
) -> Iterator[tuple[Reconstruction, dict[str, torch.Tensor]]]:
    """Averages of the lengths `sigma_rels` at time `nimg`, float32; buffers as stored last.

    All of them in memory, by one pass over the files; for many or large ones there is
    `reconstruct_files`.

    Args:
        nimg: time in images at which the averages end; None: the end of training.

    Raises:
        UserError: the time lies outside of the store's.
        ValueError: an impossible length.
    """
    if not sigma_rels:
        return
    plan = _Plan(store, [Target(sigma_rel, nimg) for sigma_rel in sigma_rels])
    made = [_empty(plan.last) for _ in plan.targets]

    def keep(name: str, begin: int, sums: torch.Tensor) -> None:
        for tensors, values in zip(made, sums, strict=True):
            tensors[name].view(-1)[begin : begin + len(values)] = values

    plan.run(keep)
    yield from zip(plan.specs, made, strict=True)


def reconstruct_files(
    store: SnapshotStore, targets: Mapping[Path, Target], dtype: torch.dtype
) -> list[Reconstruction]:
    """Write an average per path, by one pass over the snapshots and in little memory.

    Args:
        dtype: of floating-point tensors in the new files.

    Raises:
        UserError: as `reconstruct`; or a sum does not fit `dtype`.
        ValueError: an impossible length.
    """
    if not targets:
        return []
    plan = _Plan(store, list(targets.values()))
    with ExitStack() as stack:
        layout = _layout(plan.last, dtype)
        files = [
            TensorWriter(stack.enter_context(replacing(path, False)), layout) for path in targets
        ]
        for file in files:
            stack.callback(file.close)

        def write(name: str, begin: int, sums: torch.Tensor) -> None:
            cast = _cast(sums, layout[name][0], name)
            for file, values in zip(files, cast, strict=True):
                file.write(name, begin, values)

        plan.run(write)
    return plan.specs


def copy_files(
    store: SnapshotStore, targets: Mapping[Path, Target], dtype: torch.dtype
) -> list[Reconstruction]:
    """Write the averages of a store of fixed lengths as they are; targets say their times.

    Raises:
        UserError: no snapshot was taken at one of the times.
    """
    specs = []
    for path, target in targets.items():
        snapshot = store.at(store.end if target.nimg is None else target.nimg)
        write_tensors(path, load_file(store.path(snapshot)), dtype)
        specs.append(
            Reconstruction(snapshot.sigma_rel, snapshot.nimg, snapshot.average, 0.0, 1.0, 1)
        )
    return specs


class _Plan:
    """Which snapshots make the targets, and with which weights."""

    def __init__(self, store: SnapshotStore, targets: Sequence[Target]) -> None:
        self.targets = [
            (t.sigma_rel, store.end if t.nimg is None else t.nimg, t.others) for t in targets
        ]
        ends = [nimg for _, nimg, _ in self.targets]
        for end in ends:
            if not store.snapshots[0].nimg <= end <= store.end:
                raise UserError(
                    f"{store.folder}: no average can end at {end} images: expected a time between "
                    f"{store.snapshots[0].nimg} and {store.end}."
                )
        self.snapshots: list[Snapshot] = [s for s in store.snapshots if s.nimg <= max(ends)]
        self.store, self.buffers = store, store.buffers
        self.last = store.path(self.snapshots[-1])
        self.special = {name for _, _, others in self.targets for name in others}
        for name in sorted(self.special - set(store.parameters)):
            raise UserError(
                f"{store.folder}: tensor {name}: expected one that its snapshots average."
            )
        wanted = {
            (s, nimg)
            for sigma_rel, nimg, others in self.targets
            for s in (sigma_rel, *others.values())
        }
        self.columns = self._solve(sorted(wanted))
        self.specs = [self._describe(*target) for target in self.targets]
        self.uniform = self._weights("")

    def run(self, consume: Callable[[str, int, torch.Tensor], None]) -> None:
        """Hand over tensor, first value, and values [targets, values]: sums, and buffers as they
        stood at each target's time.
        """
        ends = {
            nimg: max(s for s in self.snapshots if s.nimg <= nimg) for _, nimg, _ in self.targets
        }
        with ExitStack() as stack:
            readers = {
                nimg: stack.enter_context(closing(TensorReader(self.store.path(snapshot))))
                for nimg, snapshot in ends.items()
            }
            names = [name for name in readers[max(readers)].entries if name not in self.buffers]
            for name in self.buffers:
                values = [readers[nimg].tensor(name).flatten() for _, nimg, _ in self.targets]
                consume(name, 0, torch.stack(values))
        combine(
            [self.store.path(snapshot) for snapshot in self.snapshots],
            names,
            lambda name: self._weights(name) if name in self.special else self.uniform,
            consume,
        )

    def _solve(self, wanted: list[tuple[float, int]]) -> dict[tuple[float, int], Column]:
        """Weights of the snapshots, and their error, by length and time."""
        weights, errors = solve_profiles(
            [snapshot.profile for snapshot in self.snapshots],
            [Power(nimg, sigma_rel) for sigma_rel, nimg in wanted],
        )
        return {key: (weights[:, k], float(errors[k])) for k, key in enumerate(wanted)}

    def _weights(self, tensor: str) -> torch.Tensor:
        """float32 [targets, snapshots] for one tensor."""
        rows = [
            self.columns[others.get(tensor, sigma_rel), nimg][0]
            for sigma_rel, nimg, others in self.targets
        ]
        return torch.from_numpy(np.stack(rows)).float()

    def _describe(self, sigma_rel: float, nimg: int, others: Mapping[str, float]) -> Reconstruction:
        weights, error = self.columns[sigma_rel, nimg]
        worst = max([error, *(self.columns[length, nimg][1] for length in others.values())])
        used = sum(snapshot.nimg <= nimg for snapshot in self.snapshots)
        return Reconstruction(sigma_rel, nimg, "power", worst, float(weights.sum()), used)


def _empty(like: Path) -> dict[str, torch.Tensor]:
    """Tensors as in a file, floating-point ones in float32, without values."""
    return {
        name: torch.empty(shape, dtype=dtype)
        for name, (dtype, shape) in _layout(like, torch.float32).items()
    }


def _layout(like: Path, dtype: torch.dtype) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    reader = TensorReader(like)
    reader.close()
    return {
        name: (dtype if entry.dtype.is_floating_point else entry.dtype, entry.shape)
        for name, entry in reader.entries.items()
    }


def _cast(sums: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The sums in the dtype of a file, which must be able to hold them."""
    if dtype.is_floating_point and sums.numel():
        low, high = sums.aminmax()
        limit = torch.finfo(dtype).max
        if not (low >= -limit and high <= limit):  # not a number compares as neither
            raise UserError(
                f"tensor {name}: not all values are finite in {dtype}. Write float32, or "
                "look for what diverged in training."
            )
    return sums.to(dtype)
