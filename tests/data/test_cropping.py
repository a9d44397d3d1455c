"""Square crops of images, and their resizing."""

import numpy as np
import pytest
from PIL import Image

from edm2.data.cropping import crop_to_square, random_crop
from edm2.params.dataset import Crop


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels are their own coordinates: red is x, green is y."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


BOX = (lambda x: (x > -0.5) & (x <= 0.5), 0.5)  # half open, as pixels are
BICUBIC = (  # Keys 1981, a = -0.5
    lambda x: np.where(
        np.abs(x) < 1,
        1.5 * np.abs(x) ** 3 - 2.5 * x**2 + 1,
        np.where(np.abs(x) < 2, -0.5 * np.abs(x) ** 3 + 2.5 * x**2 - 4 * np.abs(x) + 2, 0),
    ),
    2,
)
LANCZOS = (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0), 3)


def resample(lines: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """Lines [n, ...] to [size, ...] in floating point: the kernel, widened if there are fewer lines."""
    scale = len(lines) / size
    width = max(scale, 1)
    result = []
    for k in range(size):
        center = (k + 0.5) * scale
        first, last = int(center - support * width), int(np.ceil(center + support * width))
        near = np.arange(max(0, first), min(len(lines), last))
        weights = kernel((near + 0.5 - center) / width)
        result.append(np.tensordot(weights / weights.sum(), lines[near], 1))
    return np.stack(result).clip(0, 255)


def resized(pixels: np.ndarray, height: int, width: int, kernel) -> np.ndarray:
    rows = resample(pixels, height, *kernel)
    return resample(rows.swapaxes(0, 1), width, *kernel).swapaxes(0, 1)


def center(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def restated(pixels: np.ndarray, resolution: int, crop: str) -> np.ndarray:
    """Both crops in floating point, without Pillow, which rounds after each pass."""
    if crop == "lanczos":
        return resized(center(pixels, min(pixels.shape[:2])), resolution, resolution, LANCZOS)
    while min(pixels.shape[:2]) // 2 >= resolution:
        pixels = resized(pixels, len(pixels) // 2, pixels.shape[1] // 2, BOX)
    short = min(pixels.shape[:2])
    height, width = (round(length * resolution / short) for length in pixels.shape[:2])
    return center(resized(pixels, height, width, BICUBIC), resolution)


def picture(width: int, height: int) -> Image.Image:
    """Smooth colors with edges and noise."""
    y, x = np.indices((height, width)) / 40
    waves = np.stack([np.sin(x * y), np.cos(3 * x) * np.sin(y), np.sign(np.sin(5 * x + y))], axis=2)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray((128 + 90 * waves + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("crop", ["adm", "lanczos"])
@pytest.mark.parametrize("size", [(191, 129), (64, 150), (33, 31), (20, 12), (32, 32)])
def test_crops_are_those_of_their_definition(size: tuple[int, int], crop: Crop) -> None:
    image = picture(*size)
    pixels = crop_to_square(image, 16, crop).astype(float)
    assert np.abs(pixels - restated(np.asarray(image, dtype=float), 16, crop)).max() <= 3


def test_the_two_crops_differ() -> None:
    image = picture(191, 129)
    adm, lanczos = (crop_to_square(image, 16, crop).astype(float) for crop in ("adm", "lanczos"))
    assert np.sqrt(np.square(adm - lanczos).mean()) > 6


@pytest.mark.parametrize("crop", ["adm", "lanczos"])
@pytest.mark.parametrize(
    ("width", "height", "corner"), [(9, 4, (2, 0)), (4, 9, (0, 2)), (5, 5, (0, 0))]
)
def test_squares_are_at_the_center(
    width: int, height: int, corner: tuple[int, int], crop: Crop
) -> None:
    square = crop_to_square(coordinates(width, height), min(width, height), crop)
    assert tuple(square[0, 0, :2]) == corner


@pytest.mark.parametrize("crop", ["adm", "lanczos"])
def test_a_square_of_the_resolution_is_unchanged(crop: Crop) -> None:
    image = coordinates(16, 16)
    np.testing.assert_array_equal(crop_to_square(image, 16, crop), np.asarray(image))


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
