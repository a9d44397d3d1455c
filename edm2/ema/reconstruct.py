"""Averages of any length, made from a snapshot store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from edm2.ema.combine import combine
from edm2.ema.profile import Array, Power
from edm2.ema.solve import normalized, solve_profiles
from edm2.ema.store import SnapshotStore
from edm2.ema.tensorfile import TensorReader, TensorWriter
from edm2.params import UserError
from edm2.params.configs import Average
from edm2.params.errors import NotFiniteError
from edm2.runtime.files import replacing
from edm2.runtime.manifest import verified

TRUSTED_ERROR = 0.05


@dataclass(frozen=True)
class Target:
    """An average to make.

    Attributes:
        sigma_rel: its EMA length.
        nimg: time in images at which it ends; None: the end of training.
        tensor_sigma_rels: EMA lengths of single tensors, by name, where they differ from sigma_rel.
    """

    sigma_rel: float
    nimg: int | None = None
    tensor_sigma_rels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconstruction:
    """The properties of a reconstructed average.

    Attributes:
        sigma_rel, nimg: its length, and the time in images at which it ends.
        average: "power"; or "traditional", a copy of a stored average of that effective length.
        error: relative L2 error of its response function; with several lengths, the largest.
        weight_sum: sum of the snapshots' least-squares weights, before they are divided by it; 1 for
            an exact average.
        snapshots: number of snapshots that it is made from.
    """

    sigma_rel: float
    nimg: int
    average: Average
    error: float
    weight_sum: float
    snapshots: int

    @property
    def trustworthy(self) -> bool:
        """Whether the response function is near enough to that of an exact average."""
        return self.error < TRUSTED_ERROR

    def warn(self, name: str, param: str = "ema.snapshot_nimg") -> None:
        """Print a warning that names the network if it is not trustworthy.

        Args:
            param: that of the times of snapshots.
        """
        if not self.trustworthy:
            print(
                f"warning: {name}: the response function of this reconstruction has an error "
                f"of {self.error:.1%}. Take more snapshots ({param})."
            )


def reconstruct(
    store: SnapshotStore,
    sigma_rels: Sequence[float],
    nimg: int | None = None,
    normalize: bool = True,
) -> Iterator[tuple[Reconstruction, dict[str, torch.Tensor]]]:
    """Averages of the lengths `sigma_rels` at time `nimg`, float32; buffers as last stored.

    All averages are in memory at once, made in one pass over the files. For many or large ones, use
    `reconstruct_files`.

    Args:
        nimg: time in images at which the averages end; None: the end of training.
        normalize: divide the weights of the snapshots by their sum, as EDM2's published code does;
            otherwise they are the least-squares solution, as EDM2 alg. 3 is printed.

    Raises:
        UserError: the time is outside of the store's, or a sum is not finite.
        ValueError: an impossible length.
    """
    targets = [Target(sigma_rel, nimg) for sigma_rel in sigma_rels]
    yield from reconstruct_tensors(store, targets, torch.float32, normalize)


def reconstruct_tensors(
    store: SnapshotStore, targets: Sequence[Target], dtype: torch.dtype, normalize: bool = True
) -> Iterator[tuple[Reconstruction, dict[str, torch.Tensor]]]:
    """Averages as `reconstruct_files` writes them, in memory at once.

    Args:
        dtype: of the averaged tensors; buffers keep theirs.
        normalize: as `reconstruct`.

    Raises:
        UserError: as `reconstruct`; or a sum is not in the range of `dtype`.
        ValueError: an impossible length.
    """
    if not targets:
        return
    plan = _Plan(store, targets, normalize)
    averages = [_empty(plan.store.path(s), plan.buffers, dtype) for s in plan.latest]

    def keep(name: str, begin: int, sums: torch.Tensor) -> None:
        cast = plan.cast(sums, averages[0][name].dtype, name)
        for tensors, values in zip(averages, cast, strict=True):
            tensors[name].view(-1)[begin : begin + len(values)] = values

    for tensors, buffers in zip(averages, plan.run(keep), strict=True):
        tensors.update(buffers)
    yield from zip(plan.reconstructions, averages, strict=True)


def reconstruct_files(
    store: SnapshotStore,
    targets: Mapping[Path, Target],
    dtype: torch.dtype,
    normalize: bool = True,
) -> list[Reconstruction]:
    """Write one average per path, in one pass over the snapshots and little memory.

    Args:
        dtype: of the averaged tensors in the new files; buffers keep theirs.
        normalize: as `reconstruct`.

    Raises:
        UserError: as `reconstruct`; or a sum is not in the range of `dtype`.
        ValueError: an impossible length.
    """
    if not targets:
        return []
    plan = _Plan(store, list(targets.values()), normalize)
    with ExitStack() as stack:
        files = []
        for path, snapshot in zip(targets, plan.latest, strict=True):
            layout = _layout(plan.store.path(snapshot), plan.buffers, dtype)
            files.append(TensorWriter(stack.enter_context(replacing(path, False)), layout))
            stack.callback(files[-1].close)

        def write(name: str, begin: int, sums: torch.Tensor) -> None:
            cast = plan.cast(sums, files[0].entries[name].dtype, name)
            for file, values in zip(files, cast, strict=True):
                file.write(name, begin, values)

        for file, buffers in zip(files, plan.run(write), strict=True):
            for name, tensor in buffers.items():
                file.write(name, 0, tensor)
    return plan.reconstructions


def describe_averages(
    store: SnapshotStore, targets: Sequence[Target], normalize: bool = True
) -> list[Reconstruction]:
    """The properties of averages as `reconstruct_files` would return them; no value is read.

    Raises:
        UserError, ValueError: as `reconstruct`, except for sums that are not finite.
    """
    return _Plan(store, targets, normalize).reconstructions if targets else []


class _Plan:
    """The snapshots that the targets are made from, and their weights."""

    def __init__(self, store: SnapshotStore, targets: Sequence[Target], normalize: bool) -> None:
        self.targets = [
            (t.sigma_rel, store.end if t.nimg is None else t.nimg, t.tensor_sigma_rels)
            for t in targets
        ]
        ends = [nimg for _, nimg, _ in self.targets]
        for end in ends:
            if not store.snapshots[0].nimg <= end <= store.end:
                raise UserError(
                    f"{store.folder}: no average can end at {end} images: expected a time between "
                    f"{store.snapshots[0].nimg} and {store.end}."
                )
        self.snapshots = [s for s in store.snapshots if s.nimg <= max(ends)]
        self.store, self.buffers = store, store.buffers
        self.latest = [  # for each target, the last snapshot before it ends: its buffers are current
            max(s for s in self.snapshots if s.nimg <= nimg) for nimg in ends
        ]
        self.single_tensors = {name for _, _, lengths in self.targets for name in lengths}
        for name in sorted(self.single_tensors - set(store.parameters)):
            raise UserError(
                f"{store.folder}: tensor {name}: not among the tensors that its snapshots average."
            )
        self.solutions = self._solve(normalize)
        self.reconstructions = [self._describe(*target) for target in self.targets]
        self.default_weights = self._weights("")

    def run(
        self, consume: Callable[[str, int, torch.Tensor], None]
    ) -> list[dict[str, torch.Tensor]]:
        """Pass on each averaged tensor's name, first value and sums [targets, values].

        Returns:
            the buffers of each target, as they were at its time.
        """
        numbers = [self.snapshots.index(snapshot) for snapshot in self.latest]
        buffers = combine(
            [self.store.path(snapshot) for snapshot in self.snapshots],
            self.store.parameters,
            lambda name: (
                self._weights(name) if name in self.single_tensors else self.default_weights
            ),
            consume,
            self.buffers,
            set(numbers),
        )
        return [buffers[number] for number in numbers]

    def cast(self, sums: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
        """The sums of tensor `name` in the dtype of a file.

        Raises:
            NotFiniteError: a sum is not finite, or not in the range of `dtype`.
        """
        if dtype.is_floating_point and sums.is_floating_point() and sums.numel():
            low, high = sums.aminmax()
            limit = torch.finfo(dtype).max
            if not (low >= -limit and high <= limit):  # false for NaN
                raise NotFiniteError(
                    f"{self.store.folder}: tensor {name}: not all values of its average are finite in "
                    f"{dtype}. {self._cause(name)}"
                )
        return sums.to(dtype)

    def _cause(self, name: str) -> str:
        """Why a sum of tensor `name` is not finite, and what to do.

        Raises:
            UserError: a snapshot is corrupted.
        """
        for snapshot in self.snapshots:
            with closing(TensorReader(verified(self.store.path(snapshot)))) as reader:
                if not reader.tensor(name).isfinite().all():
                    return (
                        f"It is not finite in {snapshot.file}: the training diverged before "
                        f"{snapshot.nimg} images. Choose an earlier time, or train again."
                    )
        return "It is finite in all snapshots: write float32 (sweep.dtype, or --dtype)."

    def _solve(self, normalize: bool) -> dict[tuple[float, int], tuple[Array, float, float]]:
        """Weights of the snapshots, the error, and the sum of least squares, by length and time."""
        pairs = sorted(
            {
                (length, nimg)
                for sigma_rel, nimg, lengths in self.targets
                for length in (sigma_rel, *lengths.values())
            }
        )
        weights, errors = solve_profiles(
            [snapshot.profile for snapshot in self.snapshots],
            [Power(nimg, sigma_rel) for sigma_rel, nimg in pairs],
        )
        sums = [float(column.sum()) for column in weights.T]
        if normalize:
            weights, errors = normalized(weights, errors)
        return {pair: (weights[:, k], float(errors[k]), sums[k]) for k, pair in enumerate(pairs)}

    def _weights(self, tensor: str) -> torch.Tensor:
        """float32 [targets, snapshots] for one tensor."""
        rows = [
            self.solutions[lengths.get(tensor, sigma_rel), nimg][0]
            for sigma_rel, nimg, lengths in self.targets
        ]
        return torch.from_numpy(np.stack(rows)).float()

    def _describe(
        self, sigma_rel: float, nimg: int, lengths: Mapping[str, float]
    ) -> Reconstruction:
        _, error, weight_sum = self.solutions[sigma_rel, nimg]
        errors = [error, *(self.solutions[length, nimg][1] for length in lengths.values())]
        count = sum(snapshot.nimg <= nimg for snapshot in self.snapshots)
        return Reconstruction(sigma_rel, nimg, "power", max(errors), weight_sum, count)


def _empty(like: Path, buffers: Sequence[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of a file's names and shapes, averages in `dtype`, uninitialized."""
    return {
        name: torch.empty(shape, dtype=own)
        for name, (own, shape) in _layout(like, buffers, dtype).items()
    }


def _layout(
    like: Path, buffers: Sequence[str], dtype: torch.dtype
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of a file's tensors, with floating-point ones that are averaged in `dtype`."""
    with closing(TensorReader(like)) as reader:
        return {
            name: (dtype if e.dtype.is_floating_point and name not in buffers else e.dtype, e.shape)
            for name, e in reader.entries.items()
        }
