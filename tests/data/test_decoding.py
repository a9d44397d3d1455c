"""Image files of all kinds, and square crops of them."""

import io

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import ImageDecodeError, center_crop, decode_image, random_crop, resize


def encode(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels are their own coordinates: red is x, green is y."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_all_modes_become_rgb(mode: str, kind: str) -> None:
    white = Image.new("RGB", (6, 4), "white").convert(mode)
    image = decode_image(encode(white, kind))
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_all_modes_of_jpeg_become_rgb(mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    pixels = np.asarray(decode_image(encode(white, "jpeg")))
    assert pixels.shape == (8, 8, 3)
    assert pixels.min() >= 254


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    gray = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    image = decode_image(encode(Image.fromarray(gray), "png"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((2, 2), 0.5, dtype=np.float32), "floating-point"),
        (np.full((2, 2), 70_000, dtype=np.int32), "16 bits"),
        (np.full((2, 2), -1, dtype=np.int32), "16 bits"),
    ],
)
def test_pixels_that_do_not_convert_to_8_bits_are_refused(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        decode_image(encode(Image.fromarray(pixels), "tiff"))


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
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int]) -> None:
    """`corner` is the stored pixel that EXIF 2.3 (tag 274) puts at the top left, for 4×2 pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    image = decode_image(encode(coordinates(4, 2), "png", exif=exif))
    assert image.size == ((4, 2) if orientation < 5 else (2, 4))
    assert image.getpixel((0, 0))[:2] == corner


def test_files_that_are_not_whole_images_are_refused() -> None:
    whole = encode(coordinates(64, 64), "jpeg").getvalue()
    for content in (b"", b"<html>404</html>", whole[:100], whole[:-200]):
        with pytest.raises(ImageDecodeError):
            decode_image(io.BytesIO(content))


def test_invalid_exif_data_is_refused() -> None:
    """A width (tag 0x100) stored as text (type 2): Pillow raises when it rotates the image."""
    exif = Image.Exif()
    exif[274], exif[0x10E] = 6, "some text"
    content = encode(coordinates(8, 8), "jpeg", exif=exif).getvalue()
    assert decode_image(io.BytesIO(content)).size == (8, 8)
    assert content.count(b"\x01\x0e\x00\x02") == 1
    with pytest.raises(ImageDecodeError):
        decode_image(io.BytesIO(content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")))


@pytest.mark.parametrize(
    ("width", "height", "corner"), [(9, 4, (2, 0)), (4, 9, (0, 2)), (5, 5, (0, 0))]
)
def test_center_crop_is_the_largest_centered_square(
    width: int, height: int, corner: tuple[int, int]
) -> None:
    square = center_crop(coordinates(width, height))
    assert square.size == (min(width, height),) * 2
    assert square.getpixel((0, 0))[:2] == corner


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = coordinates(16, 16)
    np.testing.assert_array_equal(resize(image, 16), np.asarray(image))


def test_downsampling_averages() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = resize(Image.fromarray(board).convert("RGB"), 16)[1:-1, 1:-1].astype(float)
    assert np.abs(pixels - 127.5).max() < 3


CROPS = 2000


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Random crops of an 80×40 image, of at least a quarter of the largest square's area."""
    image, rng = coordinates(80, 40), np.random.default_rng(0)
    return [np.asarray(random_crop(image, 0.25, rng)) for _ in range(CROPS)]


def test_random_crops_are_squares_inside_the_image(crops: list[np.ndarray]) -> None:
    for crop in crops:
        side = len(crop)
        left, top = crop[0, 0, :2].astype(int)
        expected = np.asarray(coordinates(80, 40))[top : top + side, left : left + side]
        np.testing.assert_array_equal(crop, expected)


def test_areas_of_random_crops_are_uniform(crops: list[np.ndarray]) -> None:
    sides = np.array([len(crop) for crop in crops])
    assert (sides.min(), sides.max()) == (20, 40)
    quarters = np.histogram(sides**2 / 1600, bins=4, range=(0.25, 1))[0] / CROPS
    assert np.abs(quarters - 0.25).max() < 0.05


def test_positions_of_random_crops_are_uniform(crops: list[np.ndarray]) -> None:
    lefts, tops = (np.array([crop[0, 0, axis] for crop in crops]) for axis in (0, 1))
    sides = np.array([len(crop) for crop in crops])
    for position, largest in ((lefts, 80 - sides), (tops, 40 - sides)):
        assert (position == 0).any()
        assert (position == largest).any()
        movable = largest > 5
        assert np.mean(position[movable] / largest[movable]) == pytest.approx(0.5, abs=0.03)
    movable = sides < 35
    x, y = lefts[movable] / (80 - sides[movable]), tops[movable] / (40 - sides[movable])
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_a_crop_has_at_least_one_pixel() -> None:
    rng = np.random.default_rng(0)
    assert {random_crop(coordinates(1, 3), 0.01, rng).size for _ in range(20)} == {(1, 1)}
