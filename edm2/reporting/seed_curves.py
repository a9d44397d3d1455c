"""The EMA curves of trainings that differ only in their seed, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edm2.params import UserError
from edm2.reporting.selection import (
    FRESH_SEEDS,
    OTHER_BLOCKS,
    SAME_IMAGES,
    best_of_others,
    fresh_seeds_row,
    seed_block_curves,
)

Trainings = Mapping[int, pd.DataFrame]  # rows of reports/fid of one config, by the training's seed


@dataclass(frozen=True)
class SeedCurves:
    """The EMA curves of trainings that differ only in their seed.

    Attributes:
        values: float64 [trainings, EMA lengths, seed blocks].
        fresh: value of the best network on fresh seeds, of each training that has one.
    """

    metric: str
    seeds: Sequence[int]
    lengths: Sequence[float]
    values: NDArray[np.float64]
    fresh: Sequence[float]

    @classmethod
    def of(cls, trainings: Trainings) -> "SeedCurves":
        """
        Raises:
            UserError: they were evaluated with different metrics, EMA lengths or seed blocks.
        """
        curves = {seed: seed_block_curves(table) for seed, table in trainings.items()}
        metrics = {str(name) for rows in curves.values() for name in rows["metric"]}
        grids = [
            rows.pivot(index="ema_length", columns="first_seed", values="value")
            for rows in curves.values()
        ]
        axes = {(tuple(grid.index), tuple(grid.columns)) for grid in grids}
        if len(metrics) > 1 or len(axes) > 1 or any(grid.isna().any(axis=None) for grid in grids):
            raise UserError(
                f"trainings with the seeds {', '.join(map(str, trainings))} were evaluated differently: "
                "expected the same sweep.ema_lengths, evaluation.samples, evaluation.seed_blocks and "
                "evaluation.first_seed. Evaluate them alike."
            )
        best = {seed: rows.iloc[int(rows["value"].argmin())] for seed, rows in curves.items()}
        fresh = [fresh_seeds_row(table, best[seed]) for seed, table in trainings.items()]
        return cls(
            metrics.pop(),
            list(trainings),
            [float(length) for length in grids[0].index],
            np.stack([grid.to_numpy(np.float64) for grid in grids]),
            [float(row["value"]) for row in fresh if row is not None],
        )

    @property
    def valued_on(self) -> str:
        """The images that `own_best` can value networks on, in relation to those that chose them: other
        ones where there are any.
        """
        if self.values.shape[2] > 1:
            return OTHER_BLOCKS
        return FRESH_SEEDS if len(self.fresh) == len(self.seeds) else SAME_IMAGES

    def own_best(self, valued_on: str) -> dict[int, list[float]]:
        """By seed, the values of its seed blocks at the training's best EMA length."""
        if valued_on == FRESH_SEEDS:
            return {seed: [value] for seed, value in zip(self.seeds, self.fresh, strict=True)}
        chosen = best_of_others(self.values)  # [trainings, blocks]
        taken = np.take_along_axis(self.values, chosen[:, None], axis=1)[:, 0]
        return dict(zip(self.seeds, taken.tolist(), strict=True))

    def at(self, lengths: Sequence[float]) -> "SeedCurves":
        places = [list(self.lengths).index(length) for length in lengths]
        return replace(self, lengths=list(lengths), values=self.values[:, places])

    def valued_at(self, chosen: NDArray[np.int64]) -> dict[int, list[float]]:
        """By seed, the values of its seed blocks, each at the block's position in `lengths`."""
        values = self.values[:, chosen, np.arange(len(chosen))]
        return dict(zip(self.seeds, values.tolist(), strict=True))
