"""reports/index.html: one file that opens from disk, with its style and images inside."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from edm2.reporting.charts import Spec, as_json, javascript, static_svg

CHART = '<figure class="chart">'
Section = tuple[str, str]  # heading, body in HTML


def render(title: str, sections: Sequence[Section]) -> str:
    """The page, with a link to each section at its top."""
    own = files("edm2.reporting")
    style, script = (own.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    links, bodies = "", ""
    for number, (heading, body) in enumerate(sections):
        links += f'<a href="#s{number}">{html.escape(heading)}</a>'
        bodies += f'<section id="s{number}"><h2>{html.escape(heading)}</h2>{body}</section>'
    library = f"<script>{javascript()}</script>" if CHART in bodies else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><header><h1>{html.escape(title)}</h1><nav>{links}</nav></header>"
        f"<main>{bodies}</main>{library}<script>{script}</script></body></html>\n"
    )


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def picture(path: Path, caption: str, sharp: bool = False) -> str:
    """An image file, embedded; `sharp` keeps the edges of enlarged pixels."""
    mime_type, _ = mimetypes.guess_type(path.name)
    data = base64.b64encode(path.read_bytes()).decode()
    style = ' class="sharp"' if sharp else ""
    return (
        f'<figure><img{style} src="data:{mime_type};base64,{data}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def chart(spec: Spec, caption: str) -> str:
    """A chart that is drawn live, with its static figure for print and for readers without scripts."""
    data, text = base64.b64encode(static_svg(spec).encode()).decode(), html.escape(caption)
    return (
        f'{CHART}<div class="live"></div>'
        f'<img class="static" src="data:image/svg+xml;base64,{data}" alt="{text}">'
        f'<script type="application/json">{as_json(spec)}</script>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def collapsed(summary: str, body: str) -> str:
    """A body that a click on the summary opens."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def table(frame: pd.DataFrame) -> str:
    """Numbers with four digits, missing values empty."""
    cells = frame.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    return f'<div class="scroll">{cells}</div>'
