"""Sweeps besides the EMA length: training time, single tensors, guidance strength."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from edm2.reporting.curves import (
    STYLE,
    circle_point,
    draw_curve,
    finish_ema_axes,
    save_figure,
)
from edm2.reporting.selection import (
    at_final_time,
    at_one_guidance,
    ema_curve,
    main_metric,
    minimum,
    quality_columns,
    uniform_networks,
)
from edm2.reporting.trainings import (
    by_training,
    how_many,
    listed,
    lowest_point,
    mean_cells,
    mean_curve,
    valued_on,
)


def time_curves(table: pd.DataFrame) -> pd.DataFrame:
    """EMA curves of uniform networks at every training time; empty if there is only one time."""
    return _with_several(at_one_guidance(uniform_networks(table)), "nimg")


def guidance_curves(table: pd.DataFrame) -> pd.DataFrame:
    """EMA curves at every guidance strength; empty if there is only one strength."""
    return _with_several(at_final_time(uniform_networks(table)), "guidance")


def _with_several(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows of configs that have more than one value in column `by`."""
    return rows[rows.groupby("config")[by].transform("nunique") > 1]


def tensor_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Curves in which only some tensors change their EMA length, after the curve of all tensors.

    Empty if no tensors were swept.
    """
    rows = main_metric(table)
    swept = at_one_guidance(rows[(rows["tensors"] != "all") & (rows["seeds"] == "sweep")])
    uniform = ema_curve(table)
    return pd.concat([uniform[uniform["config"].isin(swept["config"])], swept], ignore_index=True)


def minima(curves: pd.DataFrame, by: str) -> pd.DataFrame:
    """The minimum of each curve, per config and value of column `by`.

    Of several trainings: the mean over them, of the minimum of each one's own curve.
    """
    rows = []
    for (config, value), of_config in curves.groupby(["config", by], sort=False):
        trainings = by_training(of_config)[str(config)]
        best = pd.DataFrame([minimum(curve) for curve in trainings.values()])
        lengths = best["ema_length"].tolist()
        rows.append(
            {
                "config": config,
                by: value,
                "metric": best["metric"].iloc[0],
                **mean_cells("best", best["value"].tolist()),
                "valued on": valued_on(best),
                "EMA length": best["ema_length"].mean(),
                **({"each EMA length": listed(lengths)} if len(best) > 1 else {}),
                **_quality(best),
            }
        )
    return pd.DataFrame(rows)


def _quality(best: pd.DataFrame) -> dict[str, object]:
    """How far minima of several trainings can be trusted: means, and how many are at an edge."""
    together = best.iloc[0].copy()
    together["at_chance"] = best["at_chance"].any()
    for column in ("error", "weight_sum", "snapshots"):
        together[column] = best[column].mean()
    return quality_columns(together) | {"at edge of grid": how_many(best["at_edge"].tolist())}


def draw_curves(curves: pd.DataFrame, by: str, *paths: Path) -> None:
    """A panel per config, a line per value of column `by`, minima marked."""
    configs = list(curves["config"].unique())
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(configs), 1, figsize=(9.5, 0.5 + 3.6 * len(configs)), squeeze=False
        )
        for axes, config in zip(grid[:, 0], configs, strict=True):
            part = curves[curves["config"] == config]
            for k, (value, curve) in enumerate(part.groupby(by, sort=False)):
                color = plt.get_cmap("viridis")(0.9 * k / max(1, part[by].nunique() - 1))
                draw_curve(axes, _curve_name(by, value), curve, color)
            axes.set_title(f"config {config}")
            finish_ema_axes(axes, part, legend_outside=True)
        save_figure(figure, *paths)


def _curve_name(by: str, value: object) -> str:
    if by == "nimg" and isinstance(value, (int, float)):
        return f"{value / 1000:g} thousand images"
    return f"w = {value}" if by == "guidance" else str(value)


def draw_heat_map(curves: pd.DataFrame, path: Path) -> None:
    """A panel per config: the metric over EMA length and guidance strength, its mean over trainings,
    minimum marked.
    """
    configs = list(curves["config"].unique())
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            len(configs), 1, figsize=(8, 0.8 + 3.2 * len(configs)), squeeze=False
        )
        for axes, config in zip(grid[:, 0], configs, strict=True):
            _draw_heat_map_panel(figure, axes, curves[curves["config"] == config])
        save_figure(figure, path)


def _draw_heat_map_panel(figure: Figure, axes: Axes, curves: pd.DataFrame) -> None:
    means = mean_curve(curves, "guidance", "ema_length")
    if means.empty:
        axes.set_axis_off()
        axes.set_title(f"config {curves['config'].iloc[0]}: trainings without a common network")
        return
    values = means.pivot(index="guidance", columns="ema_length", values="value")
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis", norm=LogNorm())
    best = lowest_point(means)
    row = values.index.tolist().index(best["guidance"])
    column = values.columns.tolist().index(best["ema_length"])
    circle_point(axes, column, row, "white")
    axes.set_xticks(range(len(values.columns)), [f"{s:g}" for s in values.columns])
    axes.set_yticks(range(len(values.index)), [f"{w:g}" for w in values.index])
    axes.set_xlabel("EMA length σ_rel")
    axes.set_ylabel("guidance strength w")
    axes.set_title(
        f"config {curves['config'].iloc[0]}: {best['value']:.3g} at EMA length "
        f"{best['ema_length']:.3g}, w = {best['guidance']:g}"
    )
    bar = figure.colorbar(image, ax=axes, label=str(curves["metric"].iloc[0]))
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    bar.ax.yaxis.set_minor_formatter("{x:.3g}")
