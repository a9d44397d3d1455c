"""reports/index.html: one file that opens from disk, with its style and images inside."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

Section = tuple[str, str]  # heading, body in HTML


def render(title: str, sections: Sequence[Section]) -> str:
    """The page, with a link to each section at its top."""
    style = files("edm2.reporting").joinpath("page.css").read_text(encoding="utf-8")
    links, bodies = "", ""
    for number, (heading, body) in enumerate(sections):
        links += f'<a href="#s{number}">{html.escape(heading)}</a>'
        bodies += f'<section id="s{number}"><h2>{html.escape(heading)}</h2>{body}</section>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><header><h1>{html.escape(title)}</h1><nav>{links}</nav></header>"
        f"<main>{bodies}</main></body></html>\n"
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


def collapsed(summary: str, body: str) -> str:
    """A body that a click on the summary opens."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def table(frame: pd.DataFrame) -> str:
    """Numbers with four digits, missing values empty."""
    cells = frame.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    return f'<div class="scroll">{cells}</div>'
