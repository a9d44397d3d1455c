"""Figures: EMA-length curves and training curves."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE: Any = {
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "edm2",
}


FRECHET = ("fd_", "fid_")  # what names of Fréchet distances begin with
# columns in which all rows about one network agree, and all about the same images of it
MEASURED = ["config", "network", "guidance", "seeds", "samples"]
IMAGES = [*MEASURED, "first_seed"]


def main_metric(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the Fréchet distance with the most samples; metrics never mix in one curve.

    One row per network: of several blocks of seeds that of the lowest value, as in the paper, with
    the number of blocks, and mean and standard deviation over them.
    """
    rows = table[table["metric"].str.startswith(FRECHET)]
    rows = rows[rows["samples"] == rows["samples"].max()]
    if "blocks" in rows:
        return rows  # they have been through here
    values = rows.groupby(MEASURED)["value"]
    spread = {
        "blocks": values.transform("size"),
        "mean": values.transform("mean"),
        "std": values.transform("std"),
    }
    return rows.assign(**spread).loc[sorted(values.idxmin())]


def metrics_of(table: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """Every metric of the images that a row is about, by name."""
    same = table[(table[IMAGES] == row[IMAGES]).all(axis=1)]
    return {
        str(name): float(value) for name, value in zip(same["metric"], same["value"], strict=True)
    }


def whole_networks(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric of networks whose tensors all have one length, on the sweep's own seeds."""
    rows = main_metric(table)
    return rows[(rows["tensors"] == "all") & (rows["seeds"] == "sweep")]


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each config, the rows of the latest time."""
    return rows[rows["nimg"] == rows.groupby("config")["nimg"].transform("max")]


def one_strength(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each config, the rows without guidance; where all are guided, those of the strength that
    has the lowest value.
    """
    chosen = {
        config: 1.0
        if (part["guidance"] == 1).any()
        else part["guidance"].iloc[int(part["value"].argmin())]
        for config, part in rows.groupby("config")
    }
    return rows[rows["guidance"] == rows["config"].map(chosen)]


def ema_curve(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric over EMA length: all tensors alike, the latest time, one guidance strength."""
    return one_strength(at_the_end(whole_networks(table))).sort_values(["config", "ema_length"])


def confirmed(table: pd.DataFrame, best: pd.Series) -> pd.Series | None:
    """The row of the network `best` measured again on fresh seeds, if that was asked for."""
    rows = main_metric(table)
    fresh = rows[
        (rows["seeds"] == "fresh")
        & (rows["config"] == best["config"])
        & (rows["network"] == best["network"])
        & (rows["guidance"] == best["guidance"])
    ]
    return None if fresh.empty else fresh.iloc[0]


def best_of(table: pd.DataFrame) -> pd.Series:
    """The row of the lowest value of the EMA curve, and whether it lies at the grid's edge."""
    rows = ema_curve(table)
    best = rows.iloc[int(rows["value"].argmin())].copy()
    ends = {rows["ema_length"].iloc[0], rows["ema_length"].iloc[-1]}
    best["at_edge"] = len(rows) > 1 and best["ema_length"] in ends
    return best


def bests_of(table: pd.DataFrame) -> list[pd.Series]:
    """The best network without guidance and the best one with it, as far as there are such."""
    rows = at_the_end(whole_networks(table))
    parts = [rows[rows["guidance"] == 1], rows[rows["guidance"] != 1]]
    return [best_of(part) for part in parts if len(part)]


def draw_ema_curves(table: pd.DataFrame, *paths: Path) -> None:
    """Metric against EMA length, a line per config, minima marked (as EDM2 Figure 5a)."""
    with plt.rc_context(STYLE):
        rows = ema_curve(table)
        several = rows["config"].nunique() > 1
        figure, axes = plt.subplots(figsize=(9.5 if several else 7, 4))
        for config, line in rows.groupby("config"):
            draw_curve(axes, f"config {config}", line)
        finish_ema_axes(axes, rows, outside=several)
        save_figure(figure, *paths)


def draw_curve(axes: Axes, name: str, line: pd.DataFrame, color: Any = None) -> None:
    """One metric against EMA length, its minimum marked and told in the legend."""
    line = line.sort_values("ema_length")
    best = line.iloc[int(line["value"].argmin())]
    ends = (line["ema_length"].iloc[0], line["ema_length"].iloc[-1])
    where = " (edge of the grid)" if len(line) > 1 and best["ema_length"] in ends else ""
    if (line["average"] == "traditional").all():
        where = " (traditional EMA, fixed)"
    label = f"{name}: {best['value']:.3g} at {best['ema_length']:.3g}{where}"
    (drawn,) = axes.plot(line["ema_length"], line["value"], marker=".", color=color, label=label)
    axes.plot(
        best["ema_length"],
        best["value"],
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgewidth=1.8,
        color=drawn.get_color(),
    )


def finish_ema_axes(axes: Axes, rows: pd.DataFrame, outside: bool) -> None:
    """Names, scales and legend of a figure of EMA curves; a long legend stands outside."""
    axes.set_xlabel("EMA length σ_rel")
    axes.set_ylabel(str(rows["metric"].iloc[0]))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    place: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if outside else {}
    axes.legend(frameon=False, **place)


def draw_training(curves: dict[str, pd.DataFrame], *paths: Path) -> None:
    """Per config: loss, error by noise level, learning rate, over images seen."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(curves), 3, figsize=(13, 3.4 * len(curves)), squeeze=False)
        for (config, rows), (loss, noise, rate) in zip(curves.items(), grid, strict=True):
            kimg = rows["nimg"] / 1000
            loss.plot(kimg, rows["train/weighted_mse"], label="weighted squared error")
            loss.plot(kimg, rows["train/loss"], label="loss with learned uncertainty")
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
    """Held-out PSNR, the losses, and what the discriminator says, over images seen."""
    scores = [
        name
        for name in ("images", "reconstructions", "accuracy")
        if f"discriminator/{name}" in rows
    ]
    with plt.rc_context(STYLE):
        figure, (quality, losses, *others) = plt.subplots(
            1, 3 if scores else 2, figsize=(13 if scores else 9, 3.2)
        )
        held_out = rows.dropna(subset="held_out/psnr")
        quality.plot(held_out["nimg"] / 1000, held_out["held_out/psnr"], marker=".")
        quality.set_title("held-out PSNR in dB")
        for column in (name for name in rows if str(name).startswith("train/")):
            if column != "train/nonfinite_gradients":
                name = str(column).removeprefix("train/")
                losses.plot(rows["nimg"] / 1000, rows[column], label=name)
        losses.set_title("losses")
        losses.set_yscale("symlog", linthresh=1e-4)  # a generator's loss may be below 0
        losses.legend(frameon=False, fontsize=8)
        for axes in others:
            for name in scores:
                axes.plot(rows["nimg"] / 1000, rows[f"discriminator/{name}"], label=name)
            axes.set_title("discriminator: scores and accuracy")
            axes.legend(frameon=False, fontsize=8)
        for axes in (quality, losses, *others):
            axes.set_xlabel("thousand images")
        save_figure(figure, *paths)


def draw_nothing(curves: object, *paths: Path) -> None:
    """A figure in the place of training curves where nothing was trained."""
    figure = plt.figure(figsize=(5, 1))
    figure.text(0.5, 0.5, "not trained here", ha="center", va="center")
    save_figure(figure, *paths)


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the formats that the paths name, the same bytes each time; close it."""
    figure.tight_layout()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
    plt.close(figure)
