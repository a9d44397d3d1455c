"""Metrics of training steps, and their means between two log rows."""

from collections.abc import Mapping
from typing import Any

import torch

from edm2.runtime.distributed import all_reduce, is_main_process, ranks
from edm2.runtime.log import NONFINITE_STEPS

Scalar = torch.Tensor | float
Metrics = Mapping[str, Scalar | tuple[Scalar, Scalar]]


class MetricAccumulator:
    """Means of metrics between two log rows; part of the checkpoint, so that logs resume too.

    A metric is a value, or (sum, count) if only a part of the batch has it. All ranks have the same
    metrics. Checkpoints have the sums of each rank: on as many ranks, the rows of a resumed training are
    those of an uninterrupted one to the bit; on another number, they differ by rounding of float64.
    """

    def __init__(self) -> None:
        # by the names that steps have in common: their sums and counts, float64 [names, 2]
        self.sums: dict[tuple[str, ...], torch.Tensor] = {}
        self.last_means: dict[str, float] = {}

    @torch.no_grad()
    def add(self, metrics: Metrics) -> torch.Tensor:
        """Add the metrics of a step. Returns whether all are finite, bool scalar on their device."""
        names, row = tuple(metrics), _stack(metrics)
        self.sums[names] = row + self.sums[names].to(row.device) if names in self.sums else row
        return row.isfinite().all()

    def latest(self) -> dict[str, float]:
        """The means of this rank since the last log row; right after it, those of the row."""
        return _means(self.sums) or self.last_means

    def compute_and_reset(self) -> dict[str, float]:
        """The means over all ranks, without metrics whose count is 0. Every rank must call this."""
        means = _means({names: all_reduce(row) for names, row in self.sums.items()})
        self.sums, self.last_means = {}, means
        return {name: mean for name, mean in means.items() if mean or name != NONFINITE_STEPS}

    def state_dict(self) -> dict[str, Any]:
        """The sums of each rank, float64 [ranks, names, 2]. Every rank must call this."""
        return {"sums": [(names, _of_all_ranks(row)) for names, row in self.sums.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = {tuple(names): _of_this_rank(rows) for names, rows in state["sums"]}


def shown(means: Mapping[str, float]) -> str:
    """For the line that shows progress: the loss of a log row, held-out PSNR if it was measured, and how many
    gradients were not finite.
    """
    name = next((name for name in ("train/loss", "train/mse") if name in means), None)
    parts = [] if name is None else [f"{name.removeprefix('train/')} {means[name]:.4g}"]
    if "held_out/psnr" in means:
        parts.append(f"held-out PSNR {means['held_out/psnr']:.2f} dB")
    if nonfinite := means.get("train/nonfinite_gradients"):
        parts.append(f"{nonfinite:.3g} gradients a step not finite")
    if share := means.get(NONFINITE_STEPS):
        parts.append(f"{share:.2%} of the steps not finite")
    return ", ".join(parts)


def _stack(metrics: Metrics) -> torch.Tensor:
    """Sum and count of each metric, float64 [metrics, 2], on the device of its first tensor.

    Numbers get there without a copy from the host, for which a GPU would be waited for.
    """
    pairs = (value if isinstance(value, tuple) else (value, 1.0) for value in metrics.values())
    parts = [part for pair in pairs for part in pair]
    tensors = (part for part in parts if isinstance(part, torch.Tensor))
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    one = torch.ones((), dtype=torch.float64, device=device)

    def on_device(part: Scalar) -> torch.Tensor:
        if isinstance(part, torch.Tensor):
            return part.to(device, torch.float64)
        return one if part == 1 else torch.full_like(one, part)

    return torch.stack([on_device(part) for part in parts]).view(-1, 2)


def _of_all_ranks(row: torch.Tensor) -> torch.Tensor:
    rows = row.new_zeros(ranks().world_size, *row.shape)
    rows[ranks().rank] = row
    return all_reduce(rows)


def _of_this_rank(rows: torch.Tensor) -> torch.Tensor:
    """Its own sums; if other ranks have saved them, those of all on the main process."""
    this = ranks()
    if len(rows) == this.world_size:
        return rows[this.rank]
    return rows.sum(0) * int(is_main_process())


def _means(sums: Mapping[tuple[str, ...], torch.Tensor]) -> dict[str, float]:
    """Sum divided by count of each metric, sorted by name, without those whose count is 0."""
    totals: dict[str, tuple[float, float]] = {}
    for names, row in sums.items():
        for name, (total, count) in zip(names, row.tolist(), strict=True):
            before = totals.get(name, (0.0, 0.0))
            totals[name] = (before[0] + total, before[1] + count)
    return {name: total / count for name, (total, count) in sorted(totals.items()) if count}
