"""Sweeps besides that of the EMA length: over training time, and over single tensors."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from edm2.reporting.curves import STYLE, ema_curve, main_metric, save_figure


def time_curves(table: pd.DataFrame) -> pd.DataFrame:
    """EMA curves of whole networks at every training time; empty if there is one time alone."""
    rows = main_metric(table)
    rows = rows[(rows["tensors"] == "all") & (rows["seeds"] == "sweep")]
    return rows[rows.groupby("config")["nimg"].transform("nunique") > 1]


def tensor_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Curves in which the EMA length of some tensors varies, and beside them that of all.

    Empty if no tensors were varied.
    """
    rows = main_metric(table)
    varied = rows[rows["tensors"] != "all"]
    whole = ema_curve(table)
    return pd.concat([whole[whole["config"].isin(varied["config"])], varied], ignore_index=True)


def minima(curves: pd.DataFrame, by: str) -> pd.DataFrame:
    """The lowest point of each curve, per config and value of column `by`."""
    rows = []
    for (config, value), line in curves.groupby(["config", by], sort=False):
        best = line.iloc[int(line["value"].argmin())]
        ends = {line["sigma_rel"].min(), line["sigma_rel"].max()}
        rows.append({"config": config, by: value, "metric": best["metric"], "best": best["value"],
                     "EMA length": best["sigma_rel"],
                     "at edge of grid": "yes" if len(line) > 1 and best["sigma_rel"] in ends else "no",
                     "error": best["error"], "weight_sum": best["weight_sum"],
                     "snapshots": best["snapshots"]})  # fmt: skip
    return pd.DataFrame(rows)


def draw_curves(curves: pd.DataFrame, by: str, *paths: Path) -> None:
    """A panel per config, a line per value of column `by`, minima marked."""
    configs = list(curves["config"].unique())
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(configs), 1, figsize=(9.5, 0.5 + 3.6 * len(configs)),
                                    squeeze=False)  # fmt: skip
        for axes, config in zip(grid[:, 0], configs, strict=True):
            part = curves[curves["config"] == config]
            for k, (value, line) in enumerate(part.groupby(by, sort=False)):
                line = line.sort_values("sigma_rel")
                best = line.iloc[int(line["value"].argmin())]
                name = f"{value / 1000:g} thousand images" if by == "nimg" else str(value)
                color = plt.get_cmap("viridis")(0.9 * k / max(1, part[by].nunique() - 1))
                axes.plot(line["sigma_rel"], line["value"], marker=".", color=color,
                          label=f"{name}: {best['value']:.3g} at {best['sigma_rel']:.3g}")  # fmt: skip
                axes.plot(best["sigma_rel"], best["value"], "o", markersize=9, color=color,
                          markerfacecolor="none", markeredgewidth=1.8)  # fmt: skip
            axes.set_title(f"config {config}")
            axes.set_xlabel("EMA length σ_rel")
            axes.set_ylabel(str(part["metric"].iloc[0]))
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_formatter("{x:.3g}")
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save_figure(figure, *paths)
