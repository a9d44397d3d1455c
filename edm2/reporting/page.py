"""reports/index.html: one file that opens from disk, with its style, scripts and images inside."""

import base64
import html
import json
import mimetypes
import re
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image

from edm2.reporting.charts import Spec, as_json, javascript, static_svg
from edm2.reporting.glossary import glossary, term_id, term_of, with_terms

CHART = '<figure class="chart">'
Section = tuple[str, str]  # heading, body in HTML


def render(title: str, sections: Sequence[Section], introduction: str = "") -> str:
    """The page, with an introduction in HTML and a link to each section at its top, and a glossary."""
    own = files("edm2.reporting")
    style, script = (own.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    links, bodies = "", ""
    explained = [(heading, with_terms(body)) for heading, body in sections]
    for number, (heading, body) in enumerate([*explained, ("Glossary", glossary())]):
        links += f'<a href="#s{number}">{html.escape(heading)}</a>'
        bodies += f'<section id="s{number}"><h2>{html.escape(heading)}</h2>{body}</section>'
    library = f"<script>{javascript()}</script>" if CHART in bodies else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><header><h1>{html.escape(title)}</h1>{with_terms(introduction)}"
        f'<nav aria-label="Sections">{links}</nav></header>'
        f"<main>{bodies}</main>{library}<script>{script}</script></body></html>\n"
    )


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def picture(path: Path, caption: str, sharp: bool = False) -> str:
    """An image file, embedded; of `sharp` ones the edges of enlarged pixels are kept."""
    mime_type, _ = mimetypes.guess_type(path.name)
    data, attributes = path.read_bytes(), ""
    if sharp:
        with Image.open(path) as image:
            size, data, mime_type = image.size, _compressed(image), "image/webp"
        attributes = f' class="sharp" width="{size[0]}" height="{size[1]}"'
    text = html.escape(caption)
    return (
        f'<figure><img{attributes} src="data:{mime_type};base64,{_base64(data)}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _compressed(image: Image.Image) -> bytes:
    """The same pixels in about half the bytes of PNG."""
    file = BytesIO()
    image.save(file, "webp", lossless=True, method=2, quality=75)
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def slider(
    kind: str, name: str, labels: Sequence[str], start: int, body: str, style: str = ""
) -> str:
    """A body of which a slider shows a part at a time; without scripts, and in print, all of it.

    Args:
        kind: "strips": a row of each picture; "frames": one picture of several.
        name: what the slider chooses.
        labels: of its positions.
        start: the first position.
        style: in CSS.
    """
    text, title = html.escape(json.dumps(list(labels))), html.escape(name)
    attributes = f'data-name="{title}" data-labels="{text}" data-start="{start}" style="{style}"'
    return f'<div class="{kind}" {attributes}>{body}</div>'


def chart(spec: Spec, caption: str) -> str:
    """A chart that is drawn live, with its static figure for print and for readers without scripts."""
    data, text = _base64(static_svg(spec).encode()), html.escape(caption)
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
    """Numbers with four digits, missing values empty; headers name the term that explains them."""
    cells = frame.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    return f'<div class="scroll">{re.sub("<th>(.*?)</th>", _header, cells)}</div>'


def _header(match: re.Match[str]) -> str:
    term = term_of(html.unescape(match[1]).removeprefix("ours: ").replace("_", " "))
    mark = f' data-term="{term_id(term)}"' if term else ""
    return f'<th scope="col"{mark}>{match[1]}</th>'
