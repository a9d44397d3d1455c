"""Image files of all kinds, and squares of them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.pictures import (
    NotAnImage,
    centre_square,
    open_picture,
    random_square,
    resized,
)


def file_of(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose pixels tell their place: red is x, green is y."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_modes_become_rgb(mode: str, kind: str) -> None:
    white = Image.new("RGB", (6, 4), "white").convert(mode)
    found = open_picture(file_of(white, kind))
    assert (found.mode, found.size) == ("RGB", (6, 4))
    assert np.asarray(found).min() == 255


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_modes_of_jpeg_become_rgb(mode: str) -> None:
    found = np.asarray(
        open_picture(file_of(Image.new("RGB", (8, 8), "white").convert(mode), "jpeg"))
    )
    assert found.shape == (8, 8, 3)
    assert found.min() >= 254


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    gray = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    found = open_picture(file_of(Image.fromarray(gray), "png"))
    assert np.asarray(found)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((2, 2), 0.5, dtype=np.float32), "floating-point"),
        (np.full((2, 2), 70_000, dtype=np.int32), "16 bits"),
        (np.full((2, 2), -1, dtype=np.int32), "16 bits"),
    ],
)
def test_pixels_of_no_known_range_are_refused(pixels: np.ndarray, said: str) -> None:
    with pytest.raises(NotAnImage, match=said):
        open_picture(file_of(Image.fromarray(pixels), "tiff"))


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (3, 0)),
        (3, (3, 1)),
        (4, (0, 1)),
        (5, (0, 0)),
        (6, (0, 1)),
        (7, (3, 1)),
        (8, (3, 0)),
    ],
)
def test_pictures_stand_upright(orientation: int, corner: tuple[int, int]) -> None:
    """The stored pixel that is to be seen at the top left, by EXIF 2.3 (tag 274), of 4×2."""
    exif = Image.Exif()
    exif[274] = orientation
    found = open_picture(file_of(coordinates(4, 2), "png", exif=exif))
    assert found.size == ((4, 2) if orientation < 5 else (2, 4))
    assert found.getpixel((0, 0))[:2] == corner


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    whole = file_of(coordinates(64, 64), "jpeg").getvalue()
    for content in (b"", b"<html>404</html>", whole[:100], whole[:-200]):
        with pytest.raises(NotAnImage):
            open_picture(io.BytesIO(content))


def test_exif_that_makes_no_sense_is_refused_not_a_crash() -> None:
    """A width (tag 0x100) in letters (type 2): Pillow fails when it turns the picture."""
    exif = Image.Exif()
    exif[274], exif[0x10E] = 6, "a text"
    content = file_of(coordinates(8, 8), "jpeg", exif=exif).getvalue()
    assert open_picture(io.BytesIO(content)).size == (8, 8)
    assert content.count(b"\x01\x0e\x00\x02") == 1
    with pytest.raises(NotAnImage):
        open_picture(io.BytesIO(content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")))


@pytest.mark.parametrize(
    ("width", "height", "corner"), [(9, 4, (2, 0)), (4, 9, (0, 2)), (5, 5, (0, 0))]
)
def test_centre_square_is_the_largest(width: int, height: int, corner: tuple[int, int]) -> None:
    square = centre_square(coordinates(width, height))
    assert square.size == (min(width, height),) * 2
    assert square.getpixel((0, 0))[:2] == corner


def test_squares_of_the_size_asked_for_stay_as_they_are() -> None:
    picture = coordinates(16, 16)
    np.testing.assert_array_equal(resized(picture, 16), np.asarray(picture))


def test_shrinking_averages() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = resized(Image.fromarray(board).convert("RGB"), 16)[1:-1, 1:-1].astype(float)
    assert np.abs(found - 127.5).max() < 3


SQUARES = 2000


@pytest.fixture(scope="module")
def squares() -> list[np.ndarray]:
    """Random ones of a picture of 80×40, of at least a quarter of the largest square."""
    picture, rng = coordinates(80, 40), np.random.default_rng(0)
    return [np.asarray(random_square(picture, 0.25, rng)) for _ in range(SQUARES)]


def test_random_squares_are_parts_of_the_picture(squares: list[np.ndarray]) -> None:
    """Not stretched, and without what lies outside."""
    for square in squares:
        side = len(square)
        left, top = square[0, 0, :2].astype(int)
        expected = np.asarray(coordinates(80, 40))[top : top + side, left : left + side]
        np.testing.assert_array_equal(square, expected)


def test_areas_of_random_squares_are_uniform(squares: list[np.ndarray]) -> None:
    sides = np.array([len(square) for square in squares])
    assert (sides.min(), sides.max()) == (20, 40)
    quarters = np.histogram(sides**2 / 1600, bins=4, range=(0.25, 1))[0] / SQUARES
    assert np.abs(quarters - 0.25).max() < 0.05


def test_random_squares_lie_anywhere(squares: list[np.ndarray]) -> None:
    lefts, tops = (np.array([square[0, 0, axis] for square in squares]) for axis in (0, 1))
    room = np.array([len(square) for square in squares])
    for place, free in ((lefts, 80 - room), (tops, 40 - room)):
        assert (place == 0).any()
        assert (place == free).any()
        assert np.mean(place[free > 5] / free[free > 5]) == pytest.approx(0.5, abs=0.03)
    free = room < 35
    across, down = lefts[free] / (80 - room[free]), tops[free] / (40 - room[free])
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.1


def test_tiny_pictures_have_squares_as_well() -> None:
    rng = np.random.default_rng(0)
    assert {random_square(coordinates(1, 3), 0.01, rng).size for _ in range(20)} == {(1, 1)}
