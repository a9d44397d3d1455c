"""Crops of the photographs that ship with scikit-image and scikit-learn."""

import socket
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from edm2.data.sources import Photos, open_source, photos
from edm2.params import Params, UserError
from edm2.params.seams import SOURCES

NAMES = [
    "astronaut",
    "cat",
    "coffee",
    "rocket",
    "retina",
    "galaxies",
    "tissue",
    "motorcycle",
    "pagoda",
    "flower",
]


@pytest.fixture(scope="module")
def at_32() -> Photos:
    return Photos(32)


def counts(source: Photos, indices: np.ndarray) -> np.ndarray:
    return np.bincount(source.labels[indices], minlength=len(source.classes))


def original(name: str) -> np.ndarray:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        return np.asarray(file)


def test_every_photograph_is_a_class(at_32: Photos) -> None:
    assert at_32.classes == NAMES
    crops = counts(at_32, np.arange(len(at_32.labels)))
    # 600×400 pixels have (600 - 32) // 16 + 1 = 36 columns and 24 rows of crops; 512×512 pixels are
    # halved first: 15 columns and rows; 1411×1411 are reduced to a fifth, 283×283: 16 columns and rows
    assert crops[NAMES.index("coffee")] == 36 * 24
    assert crops[NAMES.index("astronaut")] == 15 * 15
    assert crops[NAMES.index("retina")] == 16 * 16


def test_source_is_opened_by_name(params: Params) -> None:
    dataset = params.dataset.model_copy(update={"source": "photos", "resolution": 32})
    source = open_source(dataset)
    assert source.classes == NAMES
    image = source.image(len(source.labels) - 1)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(socket, "socket", refuse)
    Photos(64)


def test_crops_are_parts_of_the_photograph(at_32: Photos) -> None:
    """In rows from top to bottom; coffee is too small to be reduced."""
    coffee, indices = original("coffee.png"), np.flatnonzero(at_32.labels == NAMES.index("coffee"))
    expected = [
        coffee[top : top + 32, left : left + 32]
        for top in range(0, 400 - 31, 16)
        for left in range(0, 600 - 31, 16)
    ]
    for index, crop in zip(indices, expected, strict=True):
        np.testing.assert_array_equal(at_32.image(index), crop)


def test_large_photographs_are_reduced_to_means_of_blocks(at_32: Photos) -> None:
    blocks = original("retina.jpg")[:1410, :1410].reshape(282, 5, 282, 5, 3).mean(axis=(1, 3))
    reduced = at_32.photographs[NAMES.index("retina")]
    assert reduced.shape == (283, 283, 3)
    assert (
        np.abs(reduced[:282, :282] - blocks).max() < 0.6
    )  # rounding of the sum and of the quotient


def numbered(photograph: np.ndarray) -> np.ndarray:
    """An image of the same size whose pixels encode their own position, in three bytes."""
    height, width, _ = photograph.shape
    number = np.arange(height * width).reshape(height, width)
    return np.stack([number % 256, number // 256 % 256, number // 65536], axis=2).astype(np.uint8)


def covered(source: Photos, indices: np.ndarray) -> list[np.ndarray]:
    """For each photograph, which of its pixels are in at least one of the crops."""
    masks = [np.zeros(photograph.size // 3, dtype=bool) for photograph in source.photographs]
    for index in indices:
        masks[source.labels[index]][source.image(index).astype(int) @ [1, 256, 65536]] = True
    return masks


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [16, 32, 33, 64, 128])
def test_training_and_held_out_crops_share_no_pixel(resolution: int) -> None:
    source = Photos(resolution)
    source.photographs = [numbered(photograph) for photograph in source.photographs]
    for seed, held_out in ((0, 0.15), (1, 0.4)):
        train, held = (covered(source, indices) for indices in source.split(held_out, seed))
        for train_mask, held_mask in zip(train, held, strict=True):
            assert train_mask.any()
            assert held_mask.any()
            assert not (train_mask & held_mask).any()


def test_held_out_crops_are_whole_adjacent_columns(at_32: Photos) -> None:
    """So only the columns on either side of them are in neither split."""
    train, held = at_32.split(0.15, seed=0)
    for label, photograph in enumerate(at_32.photographs):
        rows, columns = ((length - 32) // 16 + 1 for length in photograph.shape[:2])
        first = np.flatnonzero(at_32.labels == label)[0]
        column = np.unique((held[at_32.labels[held] == label] - first) % columns)
        assert np.ptp(column) == len(column) - 1
        assert counts(at_32, held)[label] == rows * len(column)
        lost = rows * columns - counts(at_32, held)[label] - counts(at_32, train)[label]
        assert lost in (rows, 2 * rows)


@pytest.mark.parametrize("held_out", [0.1, 0.15, 0.5])
def test_the_held_out_fraction_is_rounded_to_whole_columns(at_32: Photos, held_out: float) -> None:
    train, held = (counts(at_32, indices) for indices in at_32.split(held_out, seed=0))
    assert (
        np.abs(held / (held + train) - held_out).max() < 1 / 13
    )  # at least 15 columns, 13 of them used
    assert held.sum() / (held + train).sum() == pytest.approx(held_out, abs=0.02)


@pytest.mark.parametrize("held_out", [0.01, 0.99])
def test_every_photograph_has_training_and_held_out_crops(held_out: float) -> None:
    source = Photos(SOURCES["photos"].max_resolution)
    for seed in range(30):
        assert all((counts(source, part) > 0).all() for part in source.split(held_out, seed))


def test_split_depends_on_the_seed_alone(at_32: Photos) -> None:
    first, same, other = (at_32.split(0.15, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(set(a)) == len(a)
        assert set(a) != set(c)
        assert abs(np.corrcoef(a, np.arange(len(a)))[0, 1]) < 0.1  # in random order


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(photos.PHOTOGRAPHS, "skin", ("skimage", "data/skin.jpg"))
    with pytest.raises(UserError, match=r"data/skin\.jpg .*constraints\.txt"):
        Photos(32)


def test_the_strip_position_differs_between_photographs_of_one_size(at_32: Photos) -> None:
    def start(label: str, seed: int) -> int:
        members = np.flatnonzero(at_32.labels == NAMES.index(label))
        return min(set(members) & set(at_32.split(0.15, seed)[1])) - members[0]

    assert any(start("pagoda", seed) != start("flower", seed) for seed in range(3))


@pytest.mark.slow
def test_identity_changes_with_the_photographs(
    monkeypatch: pytest.MonkeyPatch, at_32: Photos, tmp_path: Path
) -> None:
    before = at_32.identity()
    assert Photos(64).identity() == before
    package_file = photos._package_file

    def retouched(package: str, name: str) -> Path:
        path = tmp_path / Path(name).name
        Image.open(package_file(package, name)).point(lambda value: value // 2).save(path)
        return path

    monkeypatch.setattr(photos, "_package_file", retouched)
    assert Photos(32).identity() != before
