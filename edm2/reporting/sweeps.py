"""Sweeps besides that of the EMA length: over training time, single tensors and guidance."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from edm2.reporting.curves import (
    STYLE,
    at_the_end,
    draw_curve,
    ema_curve,
    finish_ema_axes,
    main_metric,
    one_strength,
    save_figure,
    whole_networks,
)


def time_curves(table: pd.DataFrame) -> pd.DataFrame:
    """EMA curves of whole networks at every training time; empty if there is one time alone."""
    return _several(one_strength(whole_networks(table)), "nimg")


def guidance_curves(table: pd.DataFrame) -> pd.DataFrame:
    """EMA curves at every strength of guidance; empty if there is one strength alone."""
    return _several(at_the_end(whole_networks(table)), "guidance")


def _several(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the configs that have several values of column `by`."""
    return rows[rows.groupby("config")[by].transform("nunique") > 1]


def tensor_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Curves in which the EMA length of some tensors varies, and beside them that of all.

    Empty if no tensors were varied.
    """
    rows = main_metric(table)
    varied = one_strength(rows[(rows["tensors"] != "all") & (rows["seeds"] == "sweep")])
    whole = ema_curve(table)
    return pd.concat([whole[whole["config"].isin(varied["config"])], varied], ignore_index=True)


def minima(curves: pd.DataFrame, by: str) -> pd.DataFrame:
    """The lowest point of each curve, per config and value of column `by`."""
    rows = []
    for (config, value), line in curves.groupby(["config", by], sort=False):
        best = line.iloc[int(line["value"].argmin())]
        ends = {line["ema_length"].min(), line["ema_length"].max()}
        rows.append(
            {
                "config": config,
                by: value,
                "metric": best["metric"],
                "best": best["value"],
                "EMA length": best["ema_length"],
                "at edge of grid": "yes" if len(line) > 1 and best["ema_length"] in ends else "no",
                "error": best["error"],
                "weight_sum": best["weight_sum"],
                "snapshots": best["snapshots"],
            }
        )
    return pd.DataFrame(rows)


def draw_curves(curves: pd.DataFrame, by: str, *paths: Path) -> None:
    """A panel per config, a line per value of column `by`, minima marked."""
    configs = list(curves["config"].unique())
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(configs), 1, figsize=(9.5, 0.5 + 3.6 * len(configs)), squeeze=False
        )
        for axes, config in zip(grid[:, 0], configs, strict=True):
            part = curves[curves["config"] == config]
            for k, (value, line) in enumerate(part.groupby(by, sort=False)):
                color = plt.get_cmap("viridis")(0.9 * k / max(1, part[by].nunique() - 1))
                draw_curve(axes, _told(by, value), line, color)
            axes.set_title(f"config {config}")
            finish_ema_axes(axes, part, outside=True)
        save_figure(figure, *paths)


def _told(by: str, value: object) -> str:
    if by == "nimg" and isinstance(value, (int, float)):
        return f"{value / 1000:g} thousand images"
    return f"w = {value}" if by == "guidance" else str(value)


def draw_heat_map(curves: pd.DataFrame, path: Path) -> None:
    """A panel per config: the metric over EMA length and guidance strength, the lowest marked."""
    configs = list(curves["config"].unique())
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            len(configs), 1, figsize=(8, 0.8 + 3.2 * len(configs)), squeeze=False
        )
        for axes, config in zip(grid[:, 0], configs, strict=True):
            part = curves[curves["config"] == config]
            values = part.pivot_table(index="guidance", columns="ema_length", values="value")
            image = axes.imshow(
                values, origin="lower", aspect="auto", cmap="viridis", norm=LogNorm()
            )
            row, column = np.unravel_index(np.nanargmin(values.to_numpy()), values.shape)
            axes.plot(
                column,
                row,
                "o",
                markersize=12,
                markerfacecolor="none",
                markeredgewidth=2,
                color="white",
            )
            axes.set_xticks(range(len(values.columns)), [f"{s:g}" for s in values.columns])
            axes.set_yticks(range(len(values.index)), [f"{w:g}" for w in values.index])
            axes.set_xlabel("EMA length σ_rel")
            axes.set_ylabel("guidance strength w")
            axes.set_title(
                f"config {config}: {values.to_numpy()[row, column]:.3g} at EMA length "
                f"{values.columns[column]:.3g}, w = {values.index[row]:g}"
            )
            bar = figure.colorbar(image, ax=axes, label=str(part["metric"].iloc[0]))
            bar.ax.yaxis.set_major_formatter("{x:.3g}")
            bar.ax.yaxis.set_minor_formatter("{x:.3g}")
        save_figure(figure, path)
