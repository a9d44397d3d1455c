"""The page of `edm2 compare`: whether a change helps, and what that is concluded from."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from edm2.reporting.changes import Changes, Experiment, shown_value
from edm2.reporting.charts import write_chart
from edm2.reporting.compare import (
    comparison_chart,
    configs_table,
    differing_params,
    one_metric,
    trainings_table,
)
from edm2.reporting.forest import forest_chart
from edm2.reporting.page import chart, collapsed, paragraph, render, table
from edm2.reporting.tables import write_table
from edm2.reporting.verdict import Verdict, verdict_table, verdicts_on
from edm2.runtime.files import write_text

FOREST_CAPTION = (
    "Difference of each change from its base, and its 95 % interval; left of 0 the change is better. Filled "
    "marks: settled; hollow ones: not. Small dots: the difference of each pair of trainings with the same "
    "seed. An arrow: the interval is longer."
)
CURVES_CAPTION = (
    "Fréchet distance against EMA length σ_rel. Lower is better; circles mark the minima. Of several "
    "trainings: the mean and its 95 % interval, and a thin line for each."
)
CONFIGS_NOTE = (
    "Values are those at the best EMA length of each training, on other images than chose it where there are "
    "such, with their mean and its 95 % interval. The best EMA length is that of the mean over trainings."
)
SPACE = "\N{NO-BREAK SPACE}"
SINGLE = (
    "One training of each config says nothing about others: there is no interval, and nothing is settled. "
    "Train with several seeds, like `seeds: [0, 1, 2]`."
)


@dataclass(frozen=True)
class Comparison:
    """What is known of experiments.

    Attributes:
        metric: name of the Fréchet distance.
        params: that are written or used differently.
        configs: a row per experiment and config, over its trainings.
        trainings: a row per training.
    """

    metric: str
    changes: Changes
    params: Sequence[str]
    verdicts: Sequence[Verdict]
    configs: pd.DataFrame
    trainings: pd.DataFrame

    @classmethod
    def of(cls, experiments: Mapping[str, Experiment]) -> "Comparison":
        """
        Raises:
            UserError: the experiments were evaluated differently, or have no config in common.
        """
        metric = one_metric(experiments)
        changes = Changes.between(experiments)
        params = differing_params(experiments)
        return cls(
            metric,
            changes,
            params,
            verdicts_on(changes.pairs),
            configs_table(changes.variants, params),
            trainings_table(changes.variants),
        )


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Write index.html, which opens without network, and its tables and figures: verdict.csv, compare.csv,
    trainings.csv, params.csv, forest.png, compare.png, and the figures as svg.
    """
    sections = [
        ("Does it help?", answers(comparison.verdicts, comparison.changes.notes, folder)),
        ("EMA length", _curves(comparison, folder)),
        ("Params that differ", _params(comparison, folder)),
    ]
    page = folder / "index.html"
    write_text(page, render("EDM2 comparison", sections))
    return page


def answers(verdicts: Sequence[Verdict], notes: Sequence[str], folder: Path) -> str:
    """What a page says of changes; verdict.csv, verdict.md, forest.png and forest.svg, the last two only if
    there are any.
    """
    body = "".join(
        f"<p><strong>{html.escape(v.sentence)}</strong></p>" for v in _own_best(verdicts)
    )
    body += "".join(paragraph(note) for note in notes)
    rows = verdict_table(verdicts)
    write_table(rows, folder / "verdict.csv", folder / "verdict.md")
    if not verdicts:
        return body
    figure = forest_chart(verdicts)
    write_chart(figure, folder / "forest.png", folder / "forest.svg")
    body += chart(figure, FOREST_CAPTION) + paragraph(corrections(verdicts))
    return body + table(_short_verdicts(rows))


def _own_best(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.ema_length == "own best"]


def _short_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of verdicts as the page has it."""
    change = rows["base"] + " → " + rows["change"]
    return pd.DataFrame(
        {
            "change": change.where(~change.duplicated(), ""),
            "EMA length": _unwrapped(rows["EMA length"]),
            "difference, 95 % interval": _with_interval(rows, "difference"),
            "settled": rows["settled"],
            "p (corrected)": rows["p (corrected)"],
            **{name: rows[name] for name in ("probability of improvement", "more trainings")},
            **{name: rows[name] for name in ("variance from samples", "trainings", "seed blocks")},
            "valued on": _unwrapped(rows["valued on"]),
        }
    )


def _unwrapped(cells: pd.Series) -> pd.Series:
    return cells.str.replace(" ", SPACE)


def _with_interval(rows: pd.DataFrame, column: str) -> list[str]:
    """Values with their interval, in cells that are not wrapped."""
    return [
        f"{value:.4g}" + ("" if pd.isna(low) else f"{SPACE}[{low:.4g},{SPACE}{high:.4g}]")
        for value, low, high in zip(rows[column], rows["low"], rows["high"], strict=True)
    ]


def corrections(verdicts: Sequence[Verdict]) -> str:
    """What p-values are corrected for, and what "settled" means, in words."""
    own = _own_best(verdicts)
    tested = sum(verdict.effect.interval is not None for verdict in own)
    if not tested:
        return SINGLE
    text = "Settled: p is at most 0.05. "
    if tested == 1:
        text += "One comparison is made, so p is not corrected."
    else:
        text += (
            f"{tested} comparisons are made at once, and p is corrected for their number (Holm), for each "
            "choice of the EMA length by itself: the probability that any is called settled without an "
            f"effect is at most 5{SPACE}%. Each interval is that of one comparison alone, so it may exclude "
            "0 where nothing is settled."
        )
    if untested := len(own) - tested:
        text += f" Changes with one training of each have no p and are not counted: {untested}."
    return text


def _curves(comparison: Comparison, folder: Path) -> str:
    figure = comparison_chart(comparison.changes.variants, comparison.params)
    write_chart(figure, folder / "compare.png", folder / "compare.svg")
    write_table(comparison.configs, folder / "compare.csv", folder / "compare.md")
    write_table(comparison.trainings, folder / "trainings.csv", folder / "trainings.md")
    return (
        chart(figure, CURVES_CAPTION)
        + paragraph(CONFIGS_NOTE)
        + table(_short_configs(comparison.configs, comparison.metric))
        + collapsed("Each training", table(comparison.trainings))
    )


def _short_configs(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table of configs as the page has it."""
    short = rows.assign(**{metric: _with_interval(rows, metric)})
    short["each training"] = _unwrapped(rows["each training"])
    return short.drop(columns=["low", "high", "valued on"])


def _params(comparison: Comparison, folder: Path) -> str:
    rows = [
        {
            "base": pair.base.name,
            "change": pair.change.name,
            "param": key,
            "of base": shown_value(before),
            "of change": shown_value(after),
        }
        for pair in comparison.changes.pairs
        for key, (before, after) in pair.params.items()
    ]
    frame = pd.DataFrame(rows, columns=["base", "change", "param", "of base", "of change"])
    write_table(frame, folder / "params.csv", folder / "params.md")
    if frame.empty:
        return paragraph("None, in the values that the configs use.")
    return paragraph("With the values that the configs use.") + table(frame)
