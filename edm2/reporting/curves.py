"""Figures: EMA-length curves and training curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edm2.reporting.charts import Quantity, Spec, curves_chart, limits, write_chart
from edm2.reporting.selection import ema_curve
from edm2.reporting.trainings import Trainings, lowest_point, mean_curve, mean_over_trainings
from edm2.runtime.log import NONFINITE_STEPS

MIN_ROOM = 1.05  # ratio of the end of an axis to the lines, where bands are wider
NOT_TRAINED = "not trained in this project"
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
    """Write the figure of `ema_curves_chart`."""
    write_chart(ema_curves_chart(table), *paths)


def ema_curves_chart(table: pd.DataFrame) -> Spec:
    """Metric against EMA length, a curve per config, minima circled (as EDM2 Figure 5a)."""
    rows = ema_curve(table)
    curves = {f"config {config}": curve for config, curve in rows.groupby("config", sort=False)}
    return metric_curves(curves, str(rows["metric"].iloc[0]))


def metric_curves(
    curves: Mapping[str, pd.DataFrame], metric: str, *, ordered: bool = False
) -> Spec:
    """A metric against EMA length, a curve per name; minima are circled, and given in the legend.

    Of several trainings: a thin line for each, a strong one for their mean, whose minimum it is, and
    a band for the 95 % interval of the mean.

    Args:
        curves: rows of the main metric, like those of `ema_curve`.
        ordered: whether the order of the curves has a meaning.
    """
    means, each, circles = [], [], []
    for name, curve in curves.items():
        mean = mean_curve(curve, "ema_length")
        label = f"{name}: {_minimum_in_words(curve, mean)}"
        mean = mean.assign(series=label)
        means.append(mean)
        if curve["training_seed"].nunique() > 1:
            each.append(curve.assign(series=label, training=curve["training_seed"]))
        if len(mean):
            circles.append(mean.loc[[lowest_point(mean).name]])
    columns = ["series", "training", "ema_length", "value"]
    points = pd.concat(means, ignore_index=True)
    thin = pd.concat(each)[columns] if each else pd.DataFrame(columns=columns)
    lines = pd.concat([points["value"], thin["value"]]).astype(float)
    log = bool((lines > 0).all())
    y = Quantity(
        "value", metric, log, limits(lines, points["low"], points["high"]) if log else None
    )
    x = Quantity("ema_length", "EMA length σ_rel (fraction of the training)")
    hover = {"series": "curve", "ema_length": "EMA length", "value": metric}
    if each:
        hover |= {"low": "95 % interval from", "high": "to", "trainings": "trainings"}
    circled = pd.concat(circles) if circles else points
    return curves_chart(points, thin, circled, x, y, hover, ordered=ordered)


def _minimum_in_words(curve: pd.DataFrame, mean: pd.DataFrame) -> str:
    """The lowest point of a mean curve, for the legend."""
    if mean.empty:
        return "trainings without a common EMA length"
    best = lowest_point(mean)
    ends = mean["ema_length"].min(), mean["ema_length"].max()
    note = " (edge of the grid)" if len(mean) > 1 and best["ema_length"] in ends else ""
    if (curve["average"] == "traditional").all():
        note = " (traditional EMA, fixed)"
    interval = f" [{best['low']:.3g}, {best['high']:.3g}]" if best["trainings"] > 1 else ""
    return f"{best['value']:.3g}{interval} at {best['ema_length']:.3g}{note}"


def draw_curve(axes: Axes, name: str, curve: pd.DataFrame, color: Any = None) -> None:
    """One metric of one config against EMA length; its minimum is circled, and given in the legend.

    Of several trainings: a thin line for each, a strong one for their mean, whose minimum it is, and
    a band for the 95 % interval of the mean.
    """
    mean = mean_curve(curve, "ema_length")
    (line,) = axes.plot(mean["ema_length"], mean["value"], marker=".", color=color)
    color = line.get_color()
    if curve["training_seed"].nunique() > 1:
        line.set_linewidth(2.2)
        for _, training in curve.sort_values("ema_length").groupby("training_seed"):
            axes.plot(
                training["ema_length"], training["value"], color=color, alpha=0.6, linewidth=0.8
            )
    if mean.empty:
        line.set_label(f"{name}: trainings without a common EMA length")
        return
    if mean["trainings"].iloc[0] > 1:
        axes.fill_between(
            mean["ema_length"], mean["low"], mean["high"], color=color, alpha=0.1, linewidth=0
        )
    best = lowest_point(mean)
    at_edge = len(mean) > 1 and best["ema_length"] in (
        mean["ema_length"].min(),
        mean["ema_length"].max(),
    )
    circle_point(axes, best["ema_length"], best["value"], color)
    interval = f" [{best['low']:.3g}, {best['high']:.3g}]" if best["trainings"] > 1 else ""
    note = " (edge of the grid)" if at_edge else ""
    if (curve["average"] == "traditional").all():
        note = " (traditional EMA, fixed)"
    line.set_label(f"{name}: {best['value']:.3g}{interval} at {best['ema_length']:.3g}{note}")


def circle_point(axes: Axes, x: float, y: float, color: Any) -> None:
    style: Any = {"marker": "o", "markerfacecolor": "none", "markeredgewidth": 1.8}
    axes.plot(x, y, markersize=9, color=color, **style)


def finish_ema_axes(axes: Axes, rows: pd.DataFrame, legend_outside: bool) -> None:
    """Labels, scales and legend of a figure of EMA curves; a long legend goes outside."""
    axes.set_xlabel("EMA length σ_rel")
    axes.set_ylabel(str(rows["metric"].iloc[0]))
    axes.set_yscale("log")
    if axes.collections:
        _limit_bands(axes)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    position: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if legend_outside else {}
    axes.legend(frameon=False, **position)


def _limit_bands(axes: Axes) -> None:
    """End the axis where bands are as far from the lines as these from each other: few trainings have bands
    that are so wide that lines would look flat.
    """
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[values > 0]  # the axis is logarithmic
    low, high = float(values.min()), float(values.max())
    room = max(high / low, MIN_ROOM)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low / room), min(top, high * room))


def draw_training(curves: Mapping[str, Trainings], *paths: Path) -> None:
    """Per config: loss, error by noise level, and learning rate, against images seen.

    Of several trainings: a thin line for each, a strong one for their mean.
    """
    prefix = "weighted_mse/sigma_"
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(curves), 3, figsize=(13, 3.4 * len(curves)), squeeze=False)
        for (config, trainings), (loss, noise, rate) in zip(curves.items(), grid, strict=True):
            _draw_mean(loss, trainings, "train/weighted_mse", "weighted squared error")
            _draw_mean(loss, trainings, "train/loss", "training loss")
            loss.set_title(f"config {config}: loss")
            for column in mean_over_trainings(trainings):
                if str(column).startswith(prefix):
                    label = f"σ ≈ {str(column).removeprefix(prefix)}"
                    _draw_mean(noise, trainings, str(column), label)
            noise.set_title("weighted squared error by noise level")
            noise.set_yscale("log")
            _draw_mean(rate, trainings, "train/lr", "learning rate")
            rate.set_title("learning rate")
            for axes in (loss, noise, rate):
                axes.set_xlabel("thousand images")
                axes.legend(frameon=False, fontsize=8)
        save_figure(figure, *paths)


def _draw_mean(axes: Axes, trainings: Trainings, column: str, label: str) -> None:
    mean = mean_over_trainings(trainings)
    (line,) = axes.plot(mean["nimg"] / 1000, mean[column], label=label)
    for rows in trainings.values() if len(trainings) > 1 else ():
        thin: Any = {"color": line.get_color(), "alpha": 0.5, "linewidth": 0.6}
        axes.plot(rows["nimg"] / 1000, rows[column], **thin)


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


def draw_placeholder(curves: object, *paths: Path, text: str = NOT_TRAINED) -> None:
    """The figure in place of one that the project has nothing for."""
    figure = plt.figure(figsize=(5, 1))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    save_figure(figure, *paths)


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the formats that the suffixes name, with reproducible bytes; close it."""
    figure.tight_layout()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
    plt.close(figure)
