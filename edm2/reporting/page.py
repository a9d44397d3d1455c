"""reports/index.html: one file that opens from disk, with everything inside."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd


def render(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page of (heading, body in HTML)."""
    style = files("edm2.reporting").joinpath("page.css").read_text(encoding="utf-8")
    slugs = [f"s{k}" for k in range(len(sections))]
    links = "".join(
        f'<a href="#{s}">{html.escape(h)}</a>' for s, (h, _) in zip(slugs, sections, strict=True)
    )
    bodies = "".join(
        f'<section id="{s}"><h2>{html.escape(h)}</h2>{body}</section>'
        for s, (h, body) in zip(slugs, sections, strict=True)
    )
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
    """The image itself, inside the page; `sharp` keeps enlarged pixels square."""
    kind, _ = mimetypes.guess_type(path.name)
    data = base64.b64encode(path.read_bytes()).decode()
    style = ' class="sharp"' if sharp else ""
    return (
        f'<figure><img{style} src="data:{kind};base64,{data}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def folded(summary: str, body: str) -> str:
    """Shown when asked for."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def table(frame: pd.DataFrame) -> str:
    return f'<div class="scroll">{frame.to_html(index=False, border=0, float_format="{:.4g}".format)}</div>'
