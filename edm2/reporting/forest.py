"""The forest plot of verdicts: the difference that each change makes, with its interval."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from edm2.reporting.curves import STYLE, save_figure
from edm2.reporting.verdict import Choice, Verdict

WIDTH = 5.2  # inches: letters are legible where the figure is 400 pixels wide
# heights in inches: line of text, interval, between changes, legend
LINE, ROW, GAP, LEGEND = 0.19, 0.25, 0.2, 0.7
CHARACTERS = 52  # of a line of text
LOOKS: dict[Choice, tuple[str, str, str]] = {  # marker, color (Okabe and Ito's), words
    "own best": ("o", "#0072B2", "each at its own best EMA length"),
    "common": ("D", "#D55E00", "both at a common EMA length"),
}
MARGIN = 0.08  # of the range of differences, on each side
MAX_INTERVAL = 3  # times the largest difference that is drawn: longer intervals end with an arrow


def draw_forest(verdicts: Sequence[Verdict], *paths: Path) -> None:
    """A row per change: the mean difference (large; filled if it is settled), its 95 % interval, and
    the difference of each pair of trainings (small dots). An interval that is too long ends with an arrow.

    Args:
        verdicts: of one metric, at least one.
    """
    changes: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        changes.setdefault((verdict.base, verdict.change), []).append(verdict)
    titles = [textwrap.fill(f"{a} → {b}", CHARACTERS) for a, b in changes]
    heights = [
        LINE * (1 + title.count("\n")) + ROW * len(of_change) + GAP
        for title, of_change in zip(titles, changes.values(), strict=True)
    ]
    limits = _limits(verdicts)
    with plt.rc_context({**STYLE, "axes.spines.left": False}):
        rows = sum(heights)
        figure, (axes, below) = plt.subplots(
            2, 1, figsize=(WIDTH, rows + LEGEND + 0.9), height_ratios=(rows, LEGEND)
        )
        top = 0.0
        for title, of_change, height in zip(titles, changes.values(), heights, strict=True):
            axes.text(
                0, top, title, transform=axes.get_yaxis_transform(), va="top", fontweight="bold"
            )
            for number, verdict in enumerate(reversed(of_change)):
                _draw_row(axes, verdict, top + height - GAP - ROW * (number + 0.5), limits)
            top += height
        _finish(axes, verdicts, top, limits)
        _draw_legend(below, verdicts)
        save_figure(figure, *paths)


def _limits(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """The range of the axis: 0, all differences, and intervals unless they are far longer."""
    points = [0.0, *(v.effect.difference for v in verdicts)]
    points += [d for v in verdicts for d in v.differences.values()]
    longest = MAX_INTERVAL * (max(map(abs, points)) or 1)
    ends = [end for v in verdicts for end in v.effect.interval or ()]
    points += np.clip(ends, -longest, longest).tolist()
    margin = MARGIN * (max(points) - min(points) or 1)
    return min(points) - margin, max(points) + margin


def _draw_row(axes: Axes, verdict: Verdict, y: float, limits: tuple[float, float]) -> None:
    effect = verdict.effect
    marker, color, _ = LOOKS[verdict.ema_length]
    if effect.interval is not None:
        low, high = np.clip(effect.interval, *limits)
        axes.plot([low, high], [y, y], color=color, linewidth=2, solid_capstyle="butt", zorder=2)
        for end, shown, arrow in zip(effect.interval, (low, high), "<>", strict=True):
            axes.plot(shown, y, marker="|" if end == shown else arrow, color=color, clip_on=False)
    differences = list(verdict.differences.values())
    dots: Any = {"marker": ".", "markersize": 4, "linestyle": "none", "clip_on": False}
    axes.plot(differences, [y + 0.085] * len(differences), color=color, alpha=0.8, **dots)
    face = color if effect.settled else "white"
    axes.plot(
        effect.difference, y, marker, color=color, markerfacecolor=face, markersize=7, zorder=3
    )


def _finish(
    axes: Axes, verdicts: Sequence[Verdict], bottom: float, limits: tuple[float, float]
) -> None:
    """Line at 0, sides and label."""
    axes.set_xlim(*limits)
    axes.set_ylim(bottom, -0.05)
    axes.axvline(0, color="#1c2430", linewidth=1, zorder=1)
    axes.set_yticks([])
    axes.set_xlabel(f"change of {verdicts[0].metric}, with 95 % interval")
    sides: Any = {"transform": axes.get_xaxis_transform(), "va": "bottom", "color": "#5b6675"}
    gap = 0.012 * (limits[1] - limits[0])
    axes.text(-gap, 1.01, "← improves", ha="right", **sides)
    axes.text(gap, 1.01, "worsens →", ha="left", **sides)


def _draw_legend(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    shown = {verdict.ema_length for verdict in verdicts}
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=2, label=words)
        for choice, (marker, color, words) in LOOKS.items()
        if choice in shown
    ]
    gray: Any = {"color": "#5b6675", "linestyle": "none"}
    handles += [
        Line2D([], [], marker=".", markersize=4, label="one pair of trainings", **gray),
        Line2D([], [], marker="o", markersize=7, label="settled", **gray),
        Line2D([], [], marker="o", markersize=7, mfc="white", label="not settled", **gray),
    ]
    axes.set_axis_off()
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="center", ncols=2)
