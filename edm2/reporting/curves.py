"""Curves of a metric against the EMA length."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from edm2.reporting.charts import Quantity, Spec, curves_chart, limits, write_chart
from edm2.reporting.selection import ema_curve
from edm2.reporting.trainings import lowest_point, mean_curve


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
        note = " (fixed)"
    interval = f" [{best['low']:.3g}, {best['high']:.3g}]" if best["trainings"] > 1 else ""
    return f"{best['value']:.3g}{interval} at {best['ema_length']:.3g}{note}"
