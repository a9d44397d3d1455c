"""Averages of any length, made from a snapshot store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from edm2.ema.solve import relative_error, solve_weights
from edm2.ema.store import Snapshot, SnapshotStore
from edm2.params import UserError
from edm2.params.diffusion import Average
from edm2.runtime.progress import track

TRUSTED_ERROR = 0.05


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstructed average is.

    Attributes:
        sigma_rel, nimg: its length, and the time in images at which it ends.
        average: "power"; or "traditional", stored as it is, sigma_rel being its effective length.
        error: relative L2 error of its response function.
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

    One pass over the files serves all lengths.

    Args:
        nimg: time in images at which the averages end; None: the end of training.

    Raises:
        UserError: the time lies outside of the store's, or the store's averages are traditional.
        ValueError: an impossible length.
    """
    if store.traditional:
        raise UserError(f"{store.folder}: holds a traditional EMA, whose length was fixed in training. "
                        "Take it with `stored`, or train with average: power.")  # fmt: skip
    end = store.end if nimg is None else nimg
    past = [snapshot for snapshot in store.snapshots if snapshot.nimg <= end]
    if not past or end > store.end:
        raise UserError(
            f"{store.folder}: no average can end at {end} images: expected a time between "
            f"{store.snapshots[0].nimg} and {store.end}."
        )
    times, lengths = [s.nimg for s in past], [s.sigma_rel for s in past]
    weights = solve_weights(times, lengths, [end] * len(sigma_rels), sigma_rels)
    specs = [
        Reconstruction(sigma_rel, end, "power", relative_error(column, times, lengths, end, sigma_rel),
                       float(column.sum()), len(past))
        for sigma_rel, column in zip(sigma_rels, weights.T, strict=True)
    ]  # fmt: skip
    yield from zip(specs, _sums(store, past, torch.from_numpy(weights)), strict=True)


def stored(
    store: SnapshotStore, nimg: int | None = None
) -> Iterator[tuple[Reconstruction, dict[str, torch.Tensor]]]:
    """The one average of a traditional store at time `nimg` (None: the end), float32.

    Raises:
        UserError: no snapshot was taken at that time.
    """
    end = store.end if nimg is None else nimg
    for snapshot in (s for s in store.snapshots if s.nimg == end):
        file = store.open(snapshot)
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        yield Reconstruction(snapshot.sigma_rel, end, snapshot.average, 0.0, 1.0, 1), tensors
        return
    times = ", ".join(str(s.nimg) for s in store.snapshots)
    raise UserError(
        f"{store.folder}: no average was stored at {end} images: expected one of {times}."
    )


def _sums(
    store: SnapshotStore, snapshots: Sequence[Snapshot], weights: torch.Tensor
) -> list[dict[str, torch.Tensor]]:
    """Σ_i weights[i, k] · snapshot_i for every target k, tensor by tensor, summed in float32."""
    files = [store.open(snapshot) for snapshot in snapshots]
    names = list(files[-1].keys())
    sums: list[dict[str, torch.Tensor]] = [{} for _ in range(weights.shape[1])]
    for name in track(names, "reconstruct", len(names), "tensor"):
        last = files[-1].get_tensor(name)
        if name in store.facts["buffers"]:
            results = [last.clone() for _ in sums]
        else:
            stacked = torch.stack([file.get_tensor(name).float().flatten() for file in files])
            results = list((weights.T.float() @ stacked).reshape(-1, *last.shape))
        for target, result in zip(sums, results, strict=True):
            target[name] = result
    return sums
