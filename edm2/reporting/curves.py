"""Figures: EMA-length curves and training curves."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edm2.reporting.selection import ema_curve, minimum
from edm2.runtime.log import NONFINITE_STEPS

STYLE: Any = {
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "edm2",
}


def draw_ema_curves(table: pd.DataFrame, *paths: Path) -> None:
    """Metric against EMA length, a line per config, minima marked (as EDM2 Figure 5a)."""
    with plt.rc_context(STYLE):
        rows = ema_curve(table)
        several = rows["config"].nunique() > 1
        figure, axes = plt.subplots(figsize=(9.5 if several else 7, 4))
        for (config, seed), curve in rows.groupby(["config", "training_seed"]):
            draw_curve(axes, f"config {config}, training {seed}", curve)
        finish_ema_axes(axes, rows, legend_outside=several)
        save_figure(figure, *paths)


def draw_curve(axes: Axes, name: str, curve: pd.DataFrame, color: Any = None) -> None:
    """One metric against EMA length; its minimum is circled, and given in the legend."""
    curve = curve.sort_values("ema_length")
    best = minimum(curve)
    note = " (edge of the grid)" if best["at_edge"] else ""
    if (curve["average"] == "traditional").all():
        note = " (traditional EMA, fixed)"
    label = f"{name}: {best['curve_value']:.3g} at {best['ema_length']:.3g}{note}"
    (line,) = axes.plot(curve["ema_length"], curve["value"], marker=".", color=color, label=label)
    circle_point(axes, best["ema_length"], best["curve_value"], line.get_color())


def circle_point(axes: Axes, x: float, y: float, color: Any) -> None:
    style: Any = {"marker": "o", "markerfacecolor": "none", "markeredgewidth": 1.8}
    axes.plot(x, y, markersize=9, color=color, **style)


def finish_ema_axes(axes: Axes, rows: pd.DataFrame, legend_outside: bool) -> None:
    """Labels, scales and legend of a figure of EMA curves; a long legend goes outside."""
    axes.set_xlabel("EMA length σ_rel")
    axes.set_ylabel(str(rows["metric"].iloc[0]))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    position: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if legend_outside else {}
    axes.legend(frameon=False, **position)


def draw_training(curves: dict[str, pd.DataFrame], *paths: Path) -> None:
    """Per config: loss, error by noise level, and learning rate, against images seen."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(curves), 3, figsize=(13, 3.4 * len(curves)), squeeze=False)
        for (config, rows), (loss, noise, rate) in zip(curves.items(), grid, strict=True):
            kimg = rows["nimg"] / 1000
            loss.plot(kimg, rows["train/weighted_mse"], label="weighted squared error")
            loss.plot(kimg, rows["train/loss"], label="training loss")
            loss.set_title(f"config {config}: loss")
            prefix = "weighted_mse/sigma_"
            for column in (name for name in rows if str(name).startswith(prefix)):
                noise.plot(kimg, rows[column], label=f"σ ≈ {str(column).removeprefix(prefix)}")
            noise.set_title("weighted squared error by noise level")
            noise.set_yscale("log")
            rate.plot(kimg, rows["train/lr"], label="learning rate")
            rate.set_title("learning rate")
            for axes in (loss, noise, rate):
                axes.set_xlabel("thousand images")
                axes.legend(frameon=False, fontsize=8)
        save_figure(figure, *paths)


def draw_vae(rows: pd.DataFrame, *paths: Path) -> None:
    """Held-out PSNR, losses, and the discriminator's scores, against images seen."""
    kimg = rows["nimg"] / 1000
    scores = [
        name
        for name in ("images", "reconstructions", "accuracy")
        if f"discriminator/{name}" in rows
    ]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, 3 if scores else 2, figsize=(13 if scores else 9, 3.2), squeeze=False
        )
        quality, losses, *others = panels[0]
        held_out = rows.dropna(subset="held_out/psnr")
        quality.plot(held_out["nimg"] / 1000, held_out["held_out/psnr"], marker=".")
        quality.set_title("held-out PSNR in dB")
        for column in (name for name in rows if str(name).startswith("train/")):
            if column not in ("train/nonfinite_gradients", NONFINITE_STEPS):
                losses.plot(kimg, rows[column], label=str(column).removeprefix("train/"))
        losses.set_title("losses")
        losses.set_yscale("symlog", linthresh=1e-4)  # a generator's loss may be below 0
        for axes in others:
            for name in scores:
                axes.plot(kimg, rows[f"discriminator/{name}"], label=name)
            axes.set_title("discriminator: scores and accuracy")
        for axes in (losses, *others):
            axes.legend(frameon=False, fontsize=8)
        for axes in (quality, losses, *others):
            axes.set_xlabel("thousand images")
        save_figure(figure, *paths)


def draw_placeholder(curves: object, *paths: Path) -> None:
    """The figure in place of training curves if nothing was trained."""
    figure = plt.figure(figsize=(5, 1))
    figure.text(0.5, 0.5, "not trained in this project", ha="center", va="center")
    save_figure(figure, *paths)


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the formats that the suffixes name, with reproducible bytes; close it."""
    figure.tight_layout()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
    plt.close(figure)
