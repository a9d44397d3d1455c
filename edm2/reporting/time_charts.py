"""Charts of what a training measures over time: panels of lines over images seen."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from edm2.reporting.charts import (
    HIDDEN,
    HOVER,
    ZOOM,
    Spec,
    color,
    records,
    static_png,
    toggle,
    tooltip,
)
from edm2.reporting.page import chart, paragraph
from edm2.runtime.files import replacing

MAX_POINTS = 150  # of a line
MIN_RATIO = 2.5  # smallest ratio of the ends of a logarithmic axis: flat curves should look flat
FEW_POINTS = 30  # lines with at most so many show them
GRAY = "#7f8894"
NO_VALUE = "no finite value"
PANEL_WIDTH = 360  # pixels of a static panel
PADDING, ROOM = 6, 1.03  # pixels around a linear axis, factor around a logarithmic one
DASHES = ([1, 0], [5, 3], [2, 2])
THINNED = (
    f" The values under the pointer are shown. Lines have about {MAX_POINTS} points at most; the tables of "
    "the stages (training/*.csv, vae/curves.csv) have all rows."
)


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        name: in the legend, where a click hides all lines of this name.
        values: by images seen; those that are not finite are gaps.
        label: in the tooltip; without one the line is not in it.
        part: what the style of the line stands for; empty: it has no meaning.
        faint: thin and pale, beside a strong line.
    """

    name: str
    values: pd.Series
    label: str = ""
    part: str = ""
    faint: bool = False


def panel(
    title: str, y_title: str, lines: Sequence[Line], *, ordered: bool = False, log: bool = False
) -> Spec:
    """Lines over images seen. The tooltip has all values at the time next to the pointer.

    Args:
        ordered: whether the order of the names has a meaning.
        log: a logarithmic axis; linear around 0 if not all values are positive.
    """
    thin = [thinned(line.values) for line in lines]
    rows = _rows(lines, thin)
    x = {
        "field": "kimg",
        "type": "quantitative",
        "title": "images seen (thousands)",
        "scale": {"nice": False, "zero": True},
    }
    y = {"field": "value", "type": "quantitative", "title": y_title, **_axis(rows["value"], log)}
    styles = _styles(lines, ordered)
    dots = {"color": styles["color"], "fillOpacity": styles["strokeOpacity"]}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": title,
        "width": "container",
        "usermeta": {"static_width": PANEL_WIDTH},
        "height": 220,
        "layer": [
            {
                "data": {"values": records(rows)},
                "mark": {"type": "line", "clip": True},
                "params": [toggle("name"), ZOOM],
                "encoding": {"x": x, "y": y, **styles},
            },
            {
                "data": {"values": records(rows[_dotted(rows)])},
                "mark": {"type": "circle", "size": 14, "clip": True, "aria": False},
                "encoding": {"x": x, "y": y, **dots},
            },
            _hover(lines, thin, x),
        ],
    }


def _rows(lines: Sequence[Line], thin: Sequence[pd.Series]) -> pd.DataFrame:
    """A row per point, with the columns that differ between lines."""
    columns = ["line", "kimg", "value", "name", "part", "faint"]
    points = [
        (number, nimg / 1000, value, line.name, line.part, line.faint)
        for number, (line, values) in enumerate(zip(lines, thin, strict=True))
        for nimg, value in zip(values.index.tolist(), values.tolist(), strict=True)
    ]
    rows = pd.DataFrame(points, columns=columns)
    return rows.drop(columns=[name for name in ("part", "faint") if not rows[name].any()])


def thinned(values: pd.Series) -> pd.Series:
    """Every k-th value, with the last one, so that there are at most MAX_POINTS.

    NaN where it, or one that is left out before it, is not finite.
    """
    step = max(1, -(-len(values) // MAX_POINTS))
    groups = np.arange(len(values))[::-1] // step
    finite = pd.Series(np.isfinite(values), values.index).groupby(groups).transform("all")
    return values.where(finite)[::-1][::step][::-1]


def _dotted(rows: pd.DataFrame) -> pd.Series:
    """Which points have a dot: those of strong lines with few points, and those between gaps, which have no
    line.
    """
    finite = pd.Series(np.isfinite(rows["value"]), rows.index)
    lines = finite.groupby(rows["line"])
    neighbors = lines.shift(1, fill_value=False) | lines.shift(-1, fill_value=False)
    few = lines.transform("size") <= FEW_POINTS
    if "faint" in rows:
        few &= ~rows["faint"]
    return finite & (few | ~neighbors)


def _styles(lines: Sequence[Line], ordered: bool) -> Spec:
    """Colors by name, dashes by part, and what is faint or hidden."""
    names = list(dict.fromkeys(line.name for line in lines))
    parts = list(dict.fromkeys(line.part for line in lines))
    legend = {
        "title": None,
        "direction": "horizontal",
        "columns": 3,
        "symbolType": "stroke",
        "symbolStrokeWidth": 2,
    }
    colors = color("name", names, ordered)
    colors["legend"] = legend if len(names) > 1 else None
    styles: Spec = {
        "color": colors,
        "detail": {"field": "line"},
        "strokeWidth": {"condition": {"test": "datum.faint", "value": 0.8}, "value": 1.8},
        "strokeOpacity": {  # not opacity, which takes a picture in memory for each line
            "condition": [
                {"test": {"not": {"param": "shown"}}, "value": HIDDEN},
                {"test": "datum.faint", "value": 0.5},
            ],
            "value": 1,
        },
    }
    if len(parts) > 1:
        scale = {"domain": parts, "range": DASHES[: len(parts)]}
        styles["strokeDash"] = {"field": "part", "type": "nominal", "scale": scale}
        styles["strokeDash"]["legend"] = {**legend, "symbolStrokeColor": GRAY, "symbolSize": 150}
    return styles


def _axis(values: pd.Series, log: bool) -> Spec:
    """Scale and ticks of the vertical axis."""
    axis: Spec = {"format": ".4~g", "tickCount": 6}
    finite = values[np.isfinite(values)]
    if not log or finite.empty:
        return {"axis": axis, "scale": {"zero": False, "padding": PADDING, "nice": False}}
    low, high = float(finite.min()), float(finite.max())
    if low <= 0:  # such as the loss of a generator
        smallest = float(finite.abs()[finite != 0].min()) if (finite != 0).any() else 1.0
        constant = max(smallest, 1e-4)
        return {"axis": axis, "scale": {"type": "symlog", "constant": constant, "padding": PADDING}}
    if high / low < MIN_RATIO:
        middle, side = (low * high) ** 0.5, MIN_RATIO**0.5
        low, high = middle / side, middle * side
    return {
        "axis": axis,
        "scale": {"type": "log", "domain": [low / ROOM, high * ROOM], "nice": False},
    }


def _hover(lines: Sequence[Line], thin: Sequence[pd.Series], x: Spec) -> Spec:
    """A stripe for each time, up to the middle of the times beside it, with all values then."""
    labels = {f"v{k}": line.label for k, line in enumerate(lines) if line.label}
    rows: dict[float, dict[str, object]] = {}
    for key in labels:
        values = thin[int(key[1:])]
        for nimg, value in zip(values.index.tolist(), values.tolist(), strict=True):
            row = rows.setdefault(nimg, {"images": f"{nimg:,.0f}"})
            row[key] = f"{value:.4g}" if np.isfinite(value) else NO_VALUE
    times = np.array(sorted(rows)) / 1000
    ends = [0.0, *(times[1:] + times[:-1]) / 2, *times[-1:]]
    stripes = [
        {"from": start, "to": end, **dict.fromkeys(labels, "–"), **rows[nimg]}
        for nimg, start, end in zip(sorted(rows), ends[:-1], ends[1:], strict=True)
    ]
    under = {"type": "point", "on": "pointerover", "clear": "pointerout"}
    shade = {"condition": {"param": "under", "empty": False, "value": 0.15}, "value": 0}
    return {
        "name": HOVER,
        "data": {"values": records(pd.DataFrame(stripes))},
        "mark": {"type": "rect", "clip": True, "aria": False, "color": GRAY},
        "params": [{"name": "under", "select": under}],
        "encoding": {
            "x": {**x, "field": "from"},
            "x2": {"field": "to"},
            "y": {"value": 0},
            "y2": {"value": "height"},
            "fillOpacity": shade,
            "tooltip": tooltip({"images": "images seen", **labels}),
        },
    }


def gaps(lines: Sequence[Line], of: str) -> list[str]:
    """Which of the lines have values that are not finite, in words; empty without any."""
    missing = {line.label or line.name: ~np.isfinite(line.values) for line in lines}
    missing = {name: marks for name, marks in missing.items() if marks.any()}
    if not missing:
        return []
    count = max(int(marks.sum()) for marks in missing.values())
    first = min(marks.idxmax() for marks in missing.values())
    rows = max(map(len, missing.values()))
    return [f"{of}: {', '.join(missing)} (up to {count} of {rows} rows, first at {first:,} images)"]


def gaps_note(notes: Sequence[str]) -> str:
    """A sentence about all gaps; empty without any."""
    return f" Gaps are values that are not finite: {'; '.join(notes)}." if notes else ""


def write_panels(panels: Sequence[Spec], path: Path, columns: int) -> None:
    """One picture of all panels, row by row."""
    columns = min(columns, len(panels))
    pictures = [io.BytesIO(static_png(spec)) for spec in panels]
    images = [Image.open(picture).convert("RGB") for picture in pictures]
    width, height = (max(sizes) for sizes in zip(*(image.size for image in images), strict=True))
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, lines * height), "white")
    for number, image in enumerate(images):
        line, column = divmod(number, columns)
        sheet.paste(image, (column * width, line * height))
    with replacing(path) as temporary:
        sheet.save(temporary, format="png")


def shown_panels(panels: Sequence[Spec], caption: str) -> str:
    """Panels side by side on a page, as many as fit, with one caption."""
    charts = "".join(chart({**spec, "title": ""}, spec.get("title", "")) for spec in panels)
    return f'<div class="panels">{charts}</div>{paragraph(caption)}'
