"""Square crops of images, and their resizing."""

import numpy as np
import pytest
from PIL import Image

from edm2.data.cropping import center_crop, random_crop, resize


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels are their own coordinates: red is x, green is y."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


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
