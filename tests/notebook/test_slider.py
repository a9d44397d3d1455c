import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from edm2.notebook import Slider


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (3, 2), (level, 0, 7))


def test_it_holds_every_picture_and_shows_the_first() -> None:
    html = Slider("EMA length", {0.05: picture(10), 0.1: picture(200)})._repr_html_()
    assert re.search(r'type="range" min="0" max="1" value="0"', html)
    figures = re.findall(r'<figure data-position="(\d)".*?display: (\w+)', html)
    assert figures == [("0", "block"), ("1", "none")]
    assert re.findall(r"<figcaption.*?>(.*?)</figcaption>", html) == [
        "EMA length 0.05",
        "EMA length 0.1",
    ]
    decoded = [
        np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    ]
    np.testing.assert_array_equal(decoded, [np.array(picture(10)), np.array(picture(200))])


def test_its_name_is_text_not_html() -> None:
    html = Slider('<b> & "x"', {1: picture(0)})._repr_html_()
    assert "<b>" not in html
    assert 'aria-label="&lt;b&gt; &amp; &quot;x&quot;"' in html


def test_without_pictures_there_is_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        Slider("EMA length", {})
