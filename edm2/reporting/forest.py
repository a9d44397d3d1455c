"""The forest plot of verdicts: the difference that each change makes, with its interval."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from edm2.reporting.charts import COLORS, ZOOM, Spec, records, tooltip
from edm2.reporting.verdict import Choice, Verdict

LINE, ROW, GAP = 16, 26, 14  # heights in pixels: line of text, interval, between changes
CHARACTERS = 46  # of a line of text: so many fit where the chart is 400 pixels wide
WORDS: dict[Choice, str] = {
    "own best": "each at its own best EMA length",
    "common": "both at a common EMA length",
}
SETTLED = ("settled", "not settled")
MARGIN = 0.08  # of the range of differences, on each side
MAX_INTERVAL = 3  # times the largest difference that is drawn: longer intervals end with an arrow
HOVER = {
    "of": "change",
    "choice": "compared",
    "difference": "difference",
    "interval": "95 % interval",
    "settled": "settled",
    "trainings": "trainings",
}
HOVER_PAIR = {"of": "change", "choice": "compared", "seed": "training", "value": "difference"}
GRAY = "#7f8894"


def forest_chart(verdicts: Sequence[Verdict]) -> Spec:
    """A row per change: the mean difference (large; filled if it is settled), its 95 % interval, and
    the difference of each pair of trainings (small dots). An interval that is too long ends with an arrow.

    Args:
        verdicts: of one metric, at least one.
    """
    limits = _limits(verdicts)
    titles, rows, pairs, height = _tables(verdicts, limits)
    known = rows.dropna(subset=["low", "high"])
    rule = {"type": "rule", "strokeWidth": 2}
    dot = {"type": "circle", "size": 16, "opacity": 0.8}
    white = {"type": "point", "size": 90, "fill": "white", "stroke": "white", "opacity": 1}
    point = {**_x("difference"), **_looks(rows)}
    zero = _fixed({"type": "rule", "color": GRAY}, {"x": {"datum": 0}, "y": {"value": 0}})
    zero["encoding"]["y2"] = {"value": height}
    layers = [
        zero,
        _layer(known, rule, {**_x("low"), "x2": {"field": "high"}, **_color(rows)}, HOVER),
        *_ends(known, "low", limits, _color(rows)),
        *_ends(known, "high", limits, _color(rows)),
        _layer(pairs, dot, {**_x("value"), **_color(rows)}, HOVER_PAIR),
        _layer(rows, white, {**_x("difference"), "shape": point["shape"]}, {}),
        {
            **_layer(rows, {"type": "point", "size": 90, "opacity": 1}, point, HOVER),
            "params": [ZOOM],
        },
    ]
    for layer in layers:
        layer["encoding"]["x"] |= _axis(verdicts[0].metric, limits)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "encoding": {
            "y": {
                "field": "y",
                "type": "quantitative",
                "scale": {"domain": [height, 0], "nice": False},
                "axis": None,
            }
        },
        "layer": [*layers, *_words(titles)],
    }


def _axis(metric: str, limits: tuple[float, float]) -> Spec:
    """The horizontal axis."""
    return {
        "type": "quantitative",
        "title": f"change of {metric}, with 95 % interval",
        "scale": {"domain": list(limits), "nice": False},
        "axis": {"format": ".4~g", "tickCount": 6},
    }


def _limits(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """The range of the axis: 0, all differences, and intervals unless they are far longer."""
    points = [0.0, *(v.effect.difference for v in verdicts)]
    points += [d for v in verdicts for d in v.differences.values()]
    longest = MAX_INTERVAL * (max(map(abs, points)) or 1)
    ends = [end for v in verdicts for end in v.effect.interval or ()]
    points += np.clip(ends, -longest, longest).tolist()
    margin = MARGIN * (max(points) - min(points) or 1)
    return min(points) - margin, max(points) + margin


def _tables(
    verdicts: Sequence[Verdict], limits: tuple[float, float]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, int]:
    """Titles of changes, verdicts, and pairs of trainings, with their places `y` in pixels from the top;
    the height of all.
    """
    changes: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        changes.setdefault((verdict.base, verdict.change), []).append(verdict)
    titles, rows, pairs, top = [], [], [], LINE + GAP
    for (base, change), of_change in changes.items():
        lines = textwrap.wrap(f"{base} → {change}", CHARACTERS)
        titles.append({"text": lines, "y": top})
        top += LINE * len(lines)
        for verdict in of_change:
            row = _row(verdict, limits)
            rows.append({**row, "y": top + 0.65 * ROW})
            pairs += [
                {
                    "of": row["of"],
                    "choice": row["choice"],
                    "seed": seed,
                    "value": value,
                    "y": top + 0.25 * ROW,
                }
                for seed, value in verdict.differences.items()
            ]
            top += ROW
        top += GAP
    columns = ["of", "choice", "seed", "value", "y"]
    return pd.DataFrame(titles), pd.DataFrame(rows), pd.DataFrame(pairs, columns=columns), top


def _row(verdict: Verdict, limits: tuple[float, float]) -> dict[str, object]:
    effect = verdict.effect
    low, high = effect.interval or (np.nan, np.nan)
    return {
        "of": f"{verdict.base} → {verdict.change}",
        "choice": WORDS[verdict.ema_length],
        "difference": effect.difference,
        "interval": f"{low:.4g} to {high:.4g}" if effect.interval else "none (one training)",
        "low": np.clip(low, *limits),
        "high": np.clip(high, *limits),
        "settled": SETTLED[0] if effect.settled else SETTLED[1],
        "trainings": effect.trainings,
    }


def _layer(rows: pd.DataFrame, mark: Spec, encoding: Spec, hover: Mapping[str, str]) -> Spec:
    tips = {"tooltip": tooltip(hover)} if hover else {}
    return {"data": {"values": records(rows)}, "mark": mark, "encoding": {**encoding, **tips}}


def _fixed(mark: Spec, encoding: Spec) -> Spec:
    """A mark without data."""
    return {"data": {"values": [{}]}, "mark": mark, "encoding": encoding}


def _words(titles: pd.DataFrame) -> list[Spec]:
    """The name of each change above its row, and what the sides of 0 mean."""
    bold = {
        "type": "text",
        "align": "left",
        "baseline": "top",
        "fontWeight": "bold",
        "lineHeight": LINE,
    }
    sides = [("← improves", "right", -6), ("worsens →", "left", 6)]
    return [
        _layer(titles, bold, {"x": {"value": 0}, "text": {"field": "text"}}, {}),
        *(
            _fixed(
                {"type": "text", "align": align, "dx": dx, "baseline": "top", "color": GRAY},
                {"x": {"datum": 0}, "y": {"value": 0}, "text": {"value": words}},
            )
            for words, align, dx in sides
        ),
    ]


def _ends(known: pd.DataFrame, end: str, limits: tuple[float, float], color: Spec) -> list[Spec]:
    """The low or high ends of intervals: a tick, or an arrow at the limit of the axis."""
    arrow = "triangle-left" if end == "low" else "triangle-right"
    longer = known[end].isin(limits)
    tick = {"type": "tick", "thickness": 2, "size": 10, "orient": "vertical", "opacity": 1}
    point = {"type": "point", "shape": arrow, "filled": True, "size": 70, "opacity": 1}
    channels = {**_x(end), **color}
    return [_layer(known[~longer], tick, channels, {}), _layer(known[longer], point, channels, {})]


def _x(column: str) -> Spec:
    return {"x": {"field": column}}


def _choices(rows: pd.DataFrame) -> Spec:
    """The field that colors and shapes tell, in the order of WORDS."""
    domain = [words for words in WORDS.values() if words in set(rows["choice"])]
    return {"field": "choice", "type": "nominal", "sort": None, "scale": {"domain": domain}}


def _color(rows: pd.DataFrame) -> Spec:
    channel = _choices(rows)
    channel["scale"] |= {"range": list(COLORS)}
    return {"color": {**channel, "legend": {"title": None}}}


def _looks(rows: pd.DataFrame) -> Spec:
    """Color and shape by choice of the EMA length; filled if the difference is settled."""
    shape = _choices(rows)
    shape["scale"] |= {"range": ["circle", "diamond"]}
    color = _color(rows)["color"]
    filled = {
        "field": "settled",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": list(SETTLED), "range": [1, 0]},
        "legend": None,
    }
    return {
        "stroke": color,
        "fill": {**color, "legend": None},
        "shape": {**shape, "legend": {"title": None}},
        "fillOpacity": filled,
    }
