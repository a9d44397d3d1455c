"""The header of the report: what was run, on which data, where, and how long it took."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from edm2.reporting.page import collapsed, paragraph, table


@dataclass(frozen=True)
class Facts:
    """Facts of one run, which are in the page alone: tables and metrics are the same whenever they are made.

    Attributes:
        summary: value by name, in the order of the page.
        seconds: of the stages with these params, a row each; NaN where it is not known.
        preset: name of the preset that the params are closest to.
        params: those that differ from the preset, a row each.
    """

    summary: Mapping[str, str]
    seconds: pd.DataFrame
    preset: str
    params: pd.DataFrame


def facts_header(facts: Facts) -> str:
    """The facts in HTML."""
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.summary.items()
    )
    body = f'<dl class="facts">{rows}</dl>'
    if len(facts.params):
        count = f"{len(facts.params)} params differ from the preset {facts.preset}"
        body += collapsed(count, table(facts.params))
    else:
        body += paragraph(
            f"All params that determine results are those of the preset {facts.preset}."
        )
    return body + collapsed("Duration of the stages", table(facts.seconds))


def duration(seconds: float) -> str:
    """In words, like 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
