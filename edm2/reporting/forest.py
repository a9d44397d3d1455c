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
SHAPES = ("circle", "diamond")
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
    color, shape = _of_choice(rows, "color", COLORS), _of_choice(rows, "shape", SHAPES)
    rule = {"type": "rule", "strokeWidth": 2}
    dot = {"type": "circle", "size": 16, "opacity": 0.8}
    mark = {"type": "point", "filled": True, "size": 110, "opacity": 1}
    hollow = {**mark, "size": 36, "style": "hollow"}
    zero = _fixed({"type": "rule", "color": GRAY}, {"x": {"datum": 0}, "y": {"value": LINE}})
    zero["encoding"]["y2"] = {"value": height}
    layers = [
        zero,
        _layer(known, rule, {**_x("low"), "x2": {"field": "high"}, **color}, HOVER),
        *_ends(known, "low", limits, color),
        *_ends(known, "high", limits, color),
        _layer(pairs, dot, {**_x("value"), **color}, HOVER_PAIR),
        {**_layer(rows, mark, {**_x("difference"), **color, **shape}, HOVER), "params": [ZOOM]},
        _layer(rows[~rows["settled"]], hollow, {**_x("difference"), **shape}, HOVER),
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
        "settled": bool(effect.settled),
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
    sides = [("← improves", "left", 0), ("worsens →", "right", "width")]
    return [
        _layer(titles, bold, {"x": {"value": 0}, "text": {"field": "text"}}, {}),
        *(
            _fixed(
                {"type": "text", "align": align, "baseline": "top"},
                {"x": {"value": place}, "y": {"value": 0}, "text": {"value": words}},
            )
            for words, align, place in sides
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


def _of_choice(rows: pd.DataFrame, channel: str, values: Sequence[str]) -> Spec:
    """A channel that tells the choices of the EMA length, in the order of WORDS."""
    shown = [words for words in WORDS.values() if words in set(rows["choice"])]
    scale = {"domain": shown, "range": list(values[: len(shown)])}
    field = {"field": "choice", "type": "nominal", "sort": None, "scale": scale}
    return {channel: {**field, "legend": {"title": None}}}
