"""Pictures with a slider that chooses one of them."""

import base64
import io
from collections.abc import Mapping
from html import escape

from PIL import Image

# shows the picture at the slider's position; pages may display figures that are `hidden`
SELECT = (
    "for (const figure of this.closest('div').querySelectorAll('figure')) "
    "figure.style.display = figure.dataset.position === this.value ? 'block' : 'none'"
)


class Slider:
    """A picture per value, of which one is shown.

    The pictures are in the HTML: it needs no kernel and no package of widgets, so it works in Jupyter, in a
    page that was made of the notebook, and without network. Without JavaScript only the first is shown.
    """

    def __init__(self, name: str, pictures: Mapping[float, Image.Image]) -> None:
        """
        Args:
            name: of the values, with a unit if they have one.
            pictures: by value, in the order of the slider.
        """
        if not pictures:
            raise ValueError("expected at least one picture")
        self.name, self.pictures = name, dict(pictures)

    def _repr_html_(self) -> str:
        name, figures = escape(self.name), "".join(map(self._figure, range(len(self.pictures))))
        return (
            f'<div>\n<input type="range" min="0" max="{len(self.pictures) - 1}" value="0" '
            f'aria-label="{name}" style="width: 20em; max-width: 100%" oninput="{escape(SELECT)}">\n'
            f"{figures}</div>"
        )

    def _figure(self, position: int) -> str:
        value, picture = list(self.pictures.items())[position]
        caption = f"{escape(self.name)} {value:g}"
        return (
            f'<figure data-position="{position}" '
            f'style="margin: 0; text-align: left; display: {"none" if position else "block"}">'
            f'<figcaption style="margin: 0">{caption}</figcaption>'
            f'<img alt="{caption}" src="{_data_uri(picture)}" style="max-width: 100%">'
            "</figure>\n"
        )


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="webp", lossless=True, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
