"""Sweeps besides the EMA length: training time, single tensors, guidance strength."""

import pandas as pd

from edm2.reporting.charts import Spec, placeholder_chart, records, tooltip
from edm2.reporting.curves import metric_curves
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


def sweep_panels(curves: pd.DataFrame, by: str) -> list[Spec]:
    """A chart per config, with a curve per value of column `by`, minima circled."""
    ordered = by != "tensors"
    return [
        {
            **metric_curves(
                {_curve_name(by, value): part for value, part in rows.groupby(by, sort=ordered)},
                str(rows["metric"].iloc[0]),
                ordered=ordered,
            ),
            "title": f"Config {config}",
        }
        for config, rows in curves.groupby("config", sort=False)
    ]


def _curve_name(by: str, value: object) -> str:
    if by == "nimg" and isinstance(value, (int, float)):
        return f"{value / 1000:g} thousand images"
    return f"w = {value:g}" if by == "guidance" else str(value)


def heat_maps(curves: pd.DataFrame) -> list[Spec]:
    """A chart per config: the metric over EMA length and guidance strength, its mean over trainings,
    minimum circled.
    """
    return [_heat_map(str(config), rows) for config, rows in curves.groupby("config", sort=False)]


def _heat_map(config: str, curves: pd.DataFrame) -> Spec:
    means = mean_curve(curves, "guidance", "ema_length")
    if means.empty:
        return placeholder_chart(f"Config {config}: trainings without a common network")
    metric, best = str(curves["metric"].iloc[0]), lowest_point(means)
    hover = {"ema_length": "EMA length", "guidance": "guidance strength", "value": metric}
    if best["trainings"] > 1:
        hover |= {"low": "95 % interval from", "high": "to", "trainings": "trainings"}
    scale = {"type": "log" if (means["value"] > 0).all() else "linear", "scheme": "viridis"}
    cells = {"field": "value", "type": "quantitative", "title": metric, "scale": scale}
    bar = {"direction": "horizontal", "gradientLength": 240, "format": ".3~g"}
    place = f"EMA length {best['ema_length']:.3g}, w = {best['guidance']:g}"
    circle = {"type": "point", "size": 190, "filled": False, "stroke": "white"}
    circle |= {"strokeWidth": 2.5, "opacity": 1}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": f"Config {config}: {best['value']:.3g} at {place}",
        "width": "container",
        "height": max(160, 32 * means["guidance"].nunique()),
        "encoding": {
            "x": {
                "field": "ema_length",
                "type": "ordinal",
                "title": "EMA length σ_rel",
                **_level(),
            },
            "y": {
                "field": "guidance",
                "type": "ordinal",
                "title": "guidance strength w",
                "sort": "descending",
                **_level(),
            },
            "tooltip": tooltip(hover),
        },
        "layer": [
            {
                "data": {"values": records(means)},
                "mark": "rect",
                "encoding": {"color": {**cells, "legend": bar}},
            },
            {"data": {"values": records(means.loc[[best.name]])}, "mark": circle},
        ],
    }


def _level() -> Spec:
    """The axis of a quantity with a cell for each value."""
    return {"axis": {"labelAngle": 0, "format": ".3~g", "formatType": "number", "grid": False}}
