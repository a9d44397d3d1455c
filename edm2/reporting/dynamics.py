"""Training dynamics: magnitudes of activations, weights and updates over training (EDM2 Figure 3)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from edm2.reporting.curves import STYLE, save_figure
from edm2.reporting.trainings import Trainings, mean_over_trainings

QUANTITIES = ("weights", "activations", "updates")
NOT_FINITE = "not finite"  # observed, if a measurement was NaN or infinite
FLAT = 1.05  # magnitudes that end within this factor of their first measurement are flat
MIN_AXIS_RANGE = 2.5  # smallest ratio of the ends of a magnitude axis
BOUNDED = 1.5  # activations that grow by a smaller factor in the second half are bounded
WEIGHTS_IN_PAPER = {"C": "grow", "D": "grow", "E": "flat", "F": "flat", "G": "flat"}
ACTIVATIONS_IN_PAPER = {"C": "grow", **dict.fromkeys("DEFG", "bounded")}

# by config and seed; columns nimg and <quantity>_<max or mean>/<bucket>
Curves = Mapping[str, Trainings]
Cell = str | tuple[float, ...]


def by_bucket(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The columns `quantity`/<bucket> of training curves: one column per bucket, indexed by nimg.

    Rows without any measurement are left out; values that were not finite stay NaN.
    """
    columns = {
        name: str(name).removeprefix(f"{quantity}/")
        for name in rows
        if str(name).startswith(f"{quantity}/")
    }
    measured = [name for name in rows if str(name).partition("_")[0] in QUANTITIES]
    rows = rows.dropna(subset=measured, how="all")
    return rows.set_index("nimg")[list(columns)].rename(columns=columns)


def dynamics_table(curves: Curves) -> pd.DataFrame:
    """One row per config: the magnitudes observed here, beside what the paper reports.

    Weights: mean magnitude at the end over that at the first measurement, smallest to largest
    bucket. Activations: the maximum, and its growth over the second half in the bucket that grows
    most. Updates: mean relative size over the last quarter, and the largest bucket over the
    smallest. Of several trainings: the smallest and largest value, and how many of them an observation is
    of if they differ. The paper's columns are empty for configs of which it says nothing. Configs without
    measurements have no row.
    """
    rows = []
    for config, trainings in curves.items():
        cells = [
            {**_weights(config, table), **_activations(config, table), **_updates(table)}
            for table in trainings.values()
            if by_bucket(table, "weights_mean").size
        ]
        if cells:
            count = {"trainings": len(cells)} if len(cells) > 1 else {}
            joined = {key: _joined(key, [cell[key] for cell in cells]) for key in cells[0]}
            rows.append({"config": config, **count, **joined})
    return pd.DataFrame(rows)


def _joined(key: str, cells: Sequence[Cell]) -> object:
    """What the trainings of a config have in one column: a number or a range of numbers, or words."""
    words = Counter(cell for cell in cells if isinstance(cell, str))
    if len(words) == 1 and words.total() == len(cells):
        return cells[0]
    numbers = [number for cell in cells if not isinstance(cell, str) for number in cell]
    digits = ".3f" if key.startswith("weights") else ".4g"
    if len(numbers) == 1 and not words:
        return numbers[0]
    text = [f"{min(numbers):{digits}} to {max(numbers):{digits}}"] if numbers else []
    return ", ".join(text + [f"{word} in {count}" for word, count in words.items()])


def _weights(config: str, rows: pd.DataFrame) -> dict[str, Cell]:
    weights = by_bucket(rows, "weights_mean")
    growth = weights.iloc[-1] / weights.iloc[0]
    not_growing = "shrink" if growth.min() <= 1 / FLAT else "flat"
    cells: dict[str, Cell] = {
        "weights: end / start": (float(growth.min()), float(growth.max())),
        "weights: paper": WEIGHTS_IN_PAPER.get(config, ""),
        "weights: observed": "grow" if growth.max() >= FLAT else not_growing,
    }
    return _marked(cells, weights)


def _activations(config: str, rows: pd.DataFrame) -> dict[str, Cell]:
    maxima = by_bucket(rows, "activations_max")
    late_growth = float((maxima.iloc[-1] / maxima.iloc[len(maxima) // 2]).max())
    cells: dict[str, Cell] = {
        "activations: maximum": (float(maxima.max().max()),),
        "activations: growth in 2nd half": (late_growth,),
        "activations: paper": ACTIVATIONS_IN_PAPER.get(config, ""),
        "activations: observed": "bounded" if late_growth < BOUNDED else "grow",
    }
    return _marked(cells, maxima)


def _updates(rows: pd.DataFrame) -> dict[str, Cell]:
    updates = by_bucket(rows, "updates_mean")
    sizes = updates.iloc[-max(1, len(updates) // 4) :].mean()
    with np.errstate(invalid="ignore"):  # ∞/∞, which is marked
        spread = float(sizes.max() / sizes.min())
    cells: dict[str, Cell] = {
        "relative update": (float(sizes.mean()),),
        "updates: largest / smallest bucket": (spread,),
    }
    return _marked(cells, updates)


def _marked(cells: Mapping[str, Cell], measured: pd.DataFrame) -> dict[str, Cell]:
    """The cells; ours say so if a measurement behind them is NaN or infinite."""
    if np.isfinite(measured).all(axis=None):
        return dict(cells)
    return {key: cell if "paper" in key else NOT_FINITE for key, cell in cells.items()}


def draw_magnitudes(curves: Curves, *paths: Path) -> None:
    """A row per config: activations, then weights; a color per resolution; means over trainings.

    If they were measured of averages (EDM2 Figure 15), these are in two more columns.
    """
    quantities = ["activations", "weights"]
    means = {config: mean_over_trainings(trainings) for config, trainings in curves.items()}
    if any(by_bucket(rows, "average/weights_mean").size for rows in means.values()):
        quantities += ["average/activations", "average/weights"]
    size = (0.6 + 5.2 * len(quantities), 0.6 + 2.5 * len(curves))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(curves), len(quantities), figsize=size, squeeze=False, sharex=True
        )
        for (config, rows), line in zip(means.items(), grid, strict=True):
            for axes, quantity in zip(line, quantities, strict=True):
                _draw(axes, rows, quantity)
                kind = quantity.replace("average/", "averaged network, ")
                axes.set_title(f"config {config}: {kind}")
        last = grid[:, -1]  # panels of configs without measurements have no lines
        _finish(grid[-1], next((axes for axes in last if axes.lines), last[0]))
        save_figure(figure, *paths)


def draw_updates(curves: Curves, *paths: Path) -> None:
    """A panel per config: relative size of updates, which is the effective learning rate; means over
    trainings.
    """
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
        for axes, (config, trainings) in zip(grid.flat, curves.items(), strict=False):
            _draw(axes, mean_over_trainings(trainings), "updates")
            axes.set_title(f"config {config}: ‖Δw‖ / ‖w‖")
        panels = list(grid.flat)[: len(curves)]
        _finish(panels, panels[-1])
        save_figure(figure, *paths)


def _draw(axes: Axes, rows: pd.DataFrame, quantity: str) -> None:
    """Mean (strong) and maximum (faint) of every bucket; encoder solid, others dashed."""
    mean, maximum = by_bucket(rows, f"{quantity}_mean"), by_bucket(rows, f"{quantity}_max")
    buckets = {str(bucket): str(bucket).partition("-")[::2] for bucket in mean}
    resolutions = sorted({r for _, r in buckets.values()}, key=_pixels, reverse=True)
    for bucket, (part, resolution) in buckets.items():
        position = resolutions.index(resolution) / max(1, len(resolutions) - 1)
        color = plt.get_cmap("viridis")(0.85 * position)
        style = "-" if part == "enc" else "--"
        axes.plot(mean.index / 1000, mean[bucket], style, color=color, label=bucket)
        axes.plot(
            maximum.index / 1000, maximum[bucket], style, color=color, alpha=0.4, linewidth=0.9
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", labelsize=7)
    low, high = axes.get_ylim()
    if high / low < MIN_AXIS_RANGE:  # flat curves should look flat
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / MIN_AXIS_RANGE**0.5, middle * MIN_AXIS_RANGE**0.5)


def _pixels(resolution: str) -> int:
    """Height of a resolution such as 64x64; 0 for buckets that are not named by one."""
    height = resolution.partition("x")[0]
    return int(height) if height.isdigit() else 0


def _finish(bottom: list[Axes], legend: Axes) -> None:
    for axes in bottom:
        axes.set_xlabel("thousand images")
    legend.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
