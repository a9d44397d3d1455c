"""Training dynamics: how magnitudes of activations, weights and updates went (EDM2 Figure 3)."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from edm2.reporting.curves import STYLE, save_figure

FLAT = 1.05  # magnitudes that end within this factor of where they began are flat
MIN_AXIS_RANGE = 2.5  # of a magnitude axis
BOUNDED = 1.5  # activations that grow by less in the second half of training are bounded
WEIGHTS_IN_PAPER = {"C": "grow", "D": "grow", "E": "flat", "F": "flat", "G": "flat"}
ACTIVATIONS_IN_PAPER = {"C": "grow", **dict.fromkeys("DEFG", "bounded")}

Curves = Mapping[str, pd.DataFrame]  # by config; columns nimg and <what>_<max or mean>/<bucket>


def measured(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """The columns `what`/<bucket> over training time, named by bucket, indexed by nimg."""
    columns = {
        name: str(name).partition("/")[2] for name in rows if str(name).startswith(f"{what}/")
    }
    return rows.set_index("nimg")[list(columns)].rename(columns=columns).dropna()


def dynamics_table(curves: Curves) -> pd.DataFrame:
    """One row per config: what the paper says of its magnitudes, and what was seen.

    Weights: mean magnitude at the end over that at the first measurement, least to largest bucket.
    Activations: the largest seen, and the largest bucket's growth of it over the second half.
    Updates: mean relative size over the last quarter, largest bucket over smallest.
    """
    rows = []
    for config, table in curves.items():
        weights = measured(table, "weights_mean")
        growth = weights.iloc[-1] / weights.iloc[0]
        peaks = measured(table, "activations_max")
        late = float((peaks.iloc[-1] / peaks.iloc[len(peaks) // 2]).max())
        updates = measured(table, "updates_mean")
        sizes = updates.iloc[-max(1, len(updates) // 4) :].mean()
        rows.append(
            {
                "config": config,
                "weights: end over start": f"{growth.min():.3f} to {growth.max():.3f}",
                "weights, paper": WEIGHTS_IN_PAPER.get(config, ""),
                "weights, seen": "grow"
                if growth.max() >= FLAT
                else "shrink"
                if growth.min() <= 1 / FLAT
                else "flat",
                "activations: largest": float(peaks.max().max()),
                "activations: growth in 2nd half": late,
                "activations, paper": ACTIVATIONS_IN_PAPER.get(config, ""),
                "activations, seen": "bounded" if late < BOUNDED else "grow",
                "relative update": float(sizes.mean()),
                "updates: largest bucket over smallest": float(sizes.max() / sizes.min()),
            }
        )
    return pd.DataFrame(rows)


def draw_magnitudes(curves: Curves, *paths: Path) -> None:
    """A row per config: activations on the left, weights on the right; a color per resolution."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(curves), 2, figsize=(11, 0.6 + 2.5 * len(curves)), squeeze=False, sharex=True
        )
        for (config, rows), (left, right) in zip(curves.items(), grid, strict=True):
            for axes, what in ((left, "activations"), (right, "weights")):
                _draw(axes, rows, what)
                axes.set_title(f"config {config}: {what}")
        _finish(grid[-1], grid[0, 1])
        save_figure(figure, *paths)


def draw_updates(curves: Curves, *paths: Path) -> None:
    """A panel per config: relative size of updates, the effective learning rate."""
    with plt.rc_context(STYLE):
        columns = min(4, len(curves))
        lines = -(-len(curves) // columns)
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(0.6 + 3.4 * columns, 0.4 + 2.7 * lines),
            squeeze=False,
            sharey=True,
        )
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        for axes, (config, rows) in zip(grid.flat, curves.items(), strict=False):
            _draw(axes, rows, "updates")
            axes.set_title(f"config {config}: ‖Δw‖ / ‖w‖")
        panels = list(grid.flat)[: len(curves)]
        _finish(panels, panels[-1])
        save_figure(figure, *paths)


def _draw(axes: Axes, rows: pd.DataFrame, what: str) -> None:
    mean, peak = measured(rows, f"{what}_mean"), measured(rows, f"{what}_max")
    places = {str(bucket): str(bucket).partition("-")[::2] for bucket in mean}
    sides = sorted({side for _, side in places.values()}, key=lambda s: -int(s.split("x")[0]))
    for bucket, (part, side) in places.items():
        color = plt.get_cmap("viridis")(sides.index(side) / max(1, len(sides) - 1) * 0.85)
        style = "-" if part == "enc" else "--"
        axes.plot(mean.index / 1000, mean[bucket], style, color=color, label=bucket)
        axes.plot(peak.index / 1000, peak[bucket], style, color=color, alpha=0.4, linewidth=0.9)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", labelsize=7)
    low, high = axes.get_ylim()
    if high / low < MIN_AXIS_RANGE:  # what is flat is to look flat
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / MIN_AXIS_RANGE**0.5, middle * MIN_AXIS_RANGE**0.5)


def _finish(bottom: list[Axes], legend: Axes) -> None:
    for axes in bottom:
        axes.set_xlabel("thousand images")
    legend.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
