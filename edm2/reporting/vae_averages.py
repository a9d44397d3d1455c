"""The quality of the VAE's reconstructions against the EMA length of its weights."""

import numpy as np
import pandas as pd

from edm2.reporting.charts import Quantity, Spec, curves_chart
from edm2.reporting.time_charts import PANEL_WIDTH
from edm2.reporting.training_charts import quality_names

HIGHER_IS_BETTER = ("psnr", "ssim")
LENGTH = Quantity("ema_length", "EMA length σ_rel (0: the final weights)")
CAPTION = (
    "Quality of the VAE's reconstructions of held-out images against the EMA length of its weights, with all "
    "averages made after the training from the same snapshots. Length 0 stands for the final weights. "
    "Circles mark the best."
)


def ema_panels(table: pd.DataFrame) -> list[Spec]:
    """A chart for each metric of quality that is finite (PSNR is not, of an exact reconstruction)."""
    names = {str(metric): quality_names(str(metric)) for metric in table} if len(table) else {}
    return [
        _panel(table, metric, *words[:2])
        for metric, words in names.items()
        if words and np.isfinite(table[metric]).all()
    ]


def best_row(table: pd.DataFrame, metric: str) -> pd.Series:
    """The row that is best by a metric; of equal ones that of the shortest length."""
    values = table[metric] if metric in HIGHER_IS_BETTER else -table[metric]
    return table.iloc[int(values.to_numpy().argmax())]


def best_in_words(table: pd.DataFrame) -> str:
    """Whether an average is better than the final weights."""
    final, best = table[table["ema_length"] == 0].iloc[0], best_row(table, "ssim")
    length, longest = best["ema_length"], table["ema_length"].max()
    if length == 0:
        return "By SSIM no average is better than the final weights."
    edge = ", the longest that was evaluated," if length == longest else ""
    return (
        f"By SSIM the average of EMA length {length:g}{edge} is the best: {best['ssim']:.4f}, "
        f"{best['ssim'] - final['ssim']:.2g} more than the final weights, on the images that chose it."
    )


def _panel(table: pd.DataFrame, metric: str, title: str, name: str) -> Spec:
    best = best_row(table, metric)
    label = f"best: {best[metric]:.4g} at {best['ema_length']:g}"
    points = table[["ema_length", metric]].assign(series=label, low=float("nan"), high=float("nan"))
    hover = {"ema_length": "EMA length", metric: name}
    y, none = Quantity(metric, name), points[:0].assign(training=[])
    circled = points.loc[[best.name]]
    chart = curves_chart(points, none, circled, LENGTH, y, hover, height=220)
    return chart | {"title": title, "usermeta": {"static_width": PANEL_WIDTH}}
