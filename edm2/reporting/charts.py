"""Charts: Vega-Lite specifications made of tables, drawn live by the page and as files without a browser."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vl_convert

from edm2.runtime.files import replacing, write_text

Spec = dict[str, Any]

VERSION = "6.4"  # of Vega-Lite
DIGITS = 5  # significant ones of numbers in a specification
MIN_ROOM = 1.05  # ratio of the end of an axis to the lines, where bands are wider
STATIC_WIDTH = 640  # pixels of a static figure, of one that takes the width of the page
HOVER = "hover"  # name of a layer that only shows what is under the pointer
HIDDEN = 0.06  # opacity of what the legend leaves out
COLORS = (  # Okabe and Ito's without the two that paper or night hides, lines of 3:1 on both
    "#1f77b4",
    "#d55e00",
    "#009e73",
    "#b8629b",
    "#a8780a",
    "#3a9ad9",
    "#7f7f7f",
)
THEME: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "gridColor": "#88919c",
        "gridOpacity": 0.25,
        "domainColor": "#88919c",
        "tickColor": "#88919c",
        "labelColor": "#1c2430",
        "titleColor": "#1c2430",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": True,
    },
    "legend": {
        "orient": "bottom",
        "direction": "vertical",
        "labelLimit": 0,
        "symbolOpacity": 1,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelColor": "#1c2430",
        "titleColor": "#1c2430",
    },
    "title": {"anchor": "start", "fontSize": 13, "color": "#1c2430"},
    "header": {"labelColor": "#1c2430", "titleColor": "#1c2430"},
    "text": {"color": "#1c2430", "fontSize": 12},
    "style": {"hollow": {"color": "white"}},  # as what is behind the chart
    "range": {"category": list(COLORS), "ordinal": {"scheme": "viridis"}},
}
# Dragging moves, Ctrl and the wheel (or two fingers on a pad) zoom: the wheel alone scrolls the page.
ZOOM: Spec = {
    "name": "zoom",
    "select": {"type": "interval", "zoom": "wheel![event.ctrlKey]"},
    "bind": "scales",
}


@dataclass(frozen=True)
class Quantity:
    """A quantity on an axis: its column, its name with the unit, and how the axis is divided."""

    column: str
    title: str
    log: bool = False
    domain: tuple[float, float] | None = None

    def channel(self, column: str = "", **axis: Any) -> Spec:
        """The encoding of the quantity, or of another column on its axis."""
        scale: Spec = {"type": "log"} if self.log else {"type": "linear", "zero": False}
        scale["nice"] = False
        scale |= {"padding": 12} if self.domain is None else {"domain": list(self.domain)}
        return {
            "field": column or self.column,
            "type": "quantitative",
            "title": self.title,
            "scale": scale,
            "axis": {"format": ".4~g", "tickCount": 6, **axis},
        }


def records(table: pd.DataFrame) -> list[Spec]:
    """The rows of a table, with numbers of five digits, and null for what is not a finite number."""
    return [
        {str(name): _rounded(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def toggle(field: str) -> Spec:
    """A selection by clicks on the legend, of the values of a field; name `shown`."""
    select = {"type": "point", "fields": [field], "toggle": "true"}
    return {"name": "shown", "select": select, "bind": "legend"}


def faded(opacity: float) -> Spec:
    """The opacity of a mark: as given, or that of what the legend leaves out."""
    return {"condition": {"param": "shown", "value": opacity}, "value": min(opacity, HIDDEN)}


def color(field: str, names: Sequence[str], ordered: bool = False) -> Spec:
    """Colors of series, by name: of categories, or of viridis if their order has a meaning."""
    if ordered:
        scale: Spec = {
            "domain": list(names),
            "scheme": {"name": "viridis", "extent": [0.08, 0.88]},
        }
    else:
        scale = {"domain": list(names), "range": list(COLORS)}
    fits = {"expr": "width - 20"}  # longer labels end with dots
    legend = {"title": None, "symbolType": "circle", "symbolSize": 90, "labelLimit": fits}
    kind = "ordinal" if ordered else "nominal"
    return {"field": field, "type": kind, "sort": None, "scale": scale, "legend": legend}


def tooltip(columns: Mapping[str, str]) -> list[Spec]:
    """What hovering shows, by column: its name. Numbers have four digits."""
    return [{"field": column, "title": title} for column, title in columns.items()]


def curves_chart(
    means: pd.DataFrame,
    trainings: pd.DataFrame,
    circles: pd.DataFrame,
    x: Quantity,
    y: Quantity,
    hover: Mapping[str, str],
    *,
    ordered: bool = False,
    height: int = 320,
) -> Spec:
    """A curve of each series: thin lines for trainings, a strong one for their mean, a band for its interval.

    Args:
        means: a row per point, with the columns of `x` and `y`, `series`, and the ends of its band, `low` and
            `high`, which are NaN where there is none.
        trainings: rows with `series` and `training`, that are drawn thin; empty where there is one of each.
        circles: rows of `means` that are circled.
        hover: names of the columns of `means` that hovering shows, by column.
        ordered: whether the order of the series has a meaning.
    """
    names = list(dict.fromkeys([*means["series"], *trainings["series"]]))
    strong = {"type": "line", "clip": True, "strokeWidth": 2.2 if len(trainings) else 1.8}
    points = {"type": "point", "filled": True, "size": 40, "clip": True, "opacity": 1}
    target = {"stroke": "transparent", "strokeWidth": 12}  # a point that is easy to hit
    layers = [
        _layer(means.dropna(subset=["low", "high"]), "area", _band(y), 0.12),
        _layer(trainings, "line", {"y": y.channel(), "detail": {"field": "training"}}, 0.55, 0.8),
        {
            **_layer(means, strong, {"y": y.channel()}, 1),
            "params": [toggle("series"), ZOOM],
        },
        _layer(means, points | target, {"y": y.channel(), "tooltip": tooltip(hover)}, 1),
        _layer(circles, {"type": "point", "size": 190, "filled": False}, {"y": y.channel()}, 1, 2),
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "encoding": {"x": x.channel(), "color": color("series", names, ordered)},
        "layer": [layer for layer in layers if layer["data"]["values"]],
    }


def _layer(
    rows: pd.DataFrame, mark: str | Spec, encoding: Spec, opacity: float, width: float | None = None
) -> Spec:
    mark = {"type": mark, "clip": True} if isinstance(mark, str) else mark
    if width is not None:
        mark = {**mark, "strokeWidth": width}
    encoding = {**encoding, "opacity": faded(opacity)}
    return {"data": {"values": records(rows)}, "mark": mark, "encoding": encoding}


def _band(y: Quantity) -> Spec:
    return {"y": y.channel("low"), "y2": {"field": "high"}}


def limits(lines: pd.Series, low: pd.Series, high: pd.Series) -> tuple[float, float]:
    """The ends of a logarithmic axis for lines with bands: it ends where bands are as far from the lines as
    these from each other, since few trainings have bands that are so wide that lines would look flat.

    Args:
        lines: values on the axis, above 0.
        low, high: ends of bands; NaN where there is none.
    """
    bottom, top = float(lines.min()), float(lines.max())
    room = max(top / bottom, MIN_ROOM)
    ends = (float(np.nanmin([bottom, *low])), float(np.nanmax([top, *high])))
    return max(ends[0], bottom / room) / MIN_ROOM, min(ends[1], top * room) * MIN_ROOM


def placeholder_chart(text: str) -> Spec:
    """The figure in place of one that the project has nothing for."""
    return {
        "width": STATIC_WIDTH,
        "height": 60,
        "data": {"values": [{"text": text}]},
        "mark": {"type": "text", "fontSize": 14},
        "encoding": {"text": {"field": "text"}},
    }


def themed(spec: Spec) -> Spec:
    """The specification with the theme of the report."""
    return {**spec, "config": {**THEME, **spec.get("config", {})}}


def static_svg(spec: Spec) -> str:
    """The figure as SVG, the same in every process."""
    svg = vl_convert.vegalite_to_svg(_of_fixed_width(spec), vl_version=VERSION)
    numbers: dict[str, int] = {}  # Vega counts what it draws in a process

    def renumbered(match: re.Match[str]) -> str:
        return f"{match[1]}{numbers.setdefault(match[0], len(numbers))}"

    return re.sub(r"\b(clip|gradient_)(\d+)\b", renumbered, svg)


def write_chart(spec: Spec, *paths: Path) -> None:
    """Write a chart in the formats that the suffixes name: .svg or .png."""
    for path in paths:
        if path.suffix == ".svg":
            write_text(path, static_svg(spec))
            continue
        with replacing(path) as temporary:
            temporary.write_bytes(static_png(spec))


def static_png(spec: Spec) -> bytes:
    """The figure as PNG."""
    white = _of_fixed_width(spec) | {"background": "white"}
    png: bytes = vl_convert.vegalite_to_png(white, vl_version=VERSION, scale=1.5)
    return png


def _of_fixed_width(spec: Spec) -> Spec:
    """As drawn in files, which have no page to take the width of, and no pointer."""
    fixed = themed(spec)
    if "layer" in fixed:
        fixed["layer"] = [layer for layer in fixed["layer"] if layer.get("name") != HOVER]
    if fixed.get("width") == "container":
        fixed["width"] = spec.get("usermeta", {}).get("static_width", STATIC_WIDTH)
    return fixed


def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed, which draw specifications in a page without network access."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VERSION).replace(
        "</script", "<\\/script"
    )


def as_json(spec: Spec) -> str:
    """The specification with its theme, for a script element of HTML."""
    return json.dumps(themed(spec), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
