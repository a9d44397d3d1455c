"""Crops of the color photographs that ship with scikit-image and scikit-learn."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edm2.data.decoding import Pixels, decode_image
from edm2.data.splits import Split
from edm2.params import UserError
from edm2.runtime.files import sha256
from edm2.runtime.randomness import generator

MIN_CROPS = 8  # along a photograph's shorter side, without overlap, if it is large enough
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "pagoda": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


class Photos:
    """Crops of ten photographs; the crops of one photograph are a class.

    A large photograph is first reduced by the largest integer factor that leaves `MIN_CROPS` crops
    side by side, so that crops show objects and not only texture. Each reduced pixel is the mean of a
    separate block of pixels: crops that do not overlap share no pixel of the original either. Crops
    start at multiples of half their size, in both directions.
    """

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.stride = (resolution + 1) // 2  # every second crop has no pixel in common
        self.classes = list(PHOTOGRAPHS)
        self.paths = [_package_file(*location) for location in PHOTOGRAPHS.values()]
        self.photographs = [
            _load_reduced(path, resolution) for path in self.paths
        ]  # [H, W, 3] each
        # [N, 3]: photograph, row and column of each crop
        self.crops = np.concatenate(
            [
                np.insert(np.argwhere(np.ones(self._grid_shape(pixels))), 0, label, axis=1)
                for label, pixels in enumerate(self.photographs)
            ]
        )
        self.labels = self.crops[:, 0]

    def image(self, index: int) -> Pixels:
        photograph, row, column = self.crops[index]
        top, left = row * self.stride, column * self.stride
        crop = self.photographs[photograph][top : top + self.resolution]
        return crop[:, left : left + self.resolution]

    def split(self, held_out: float | None, seed: int) -> Split:
        """Hold out one vertical strip of each photograph, at a random position.

        Training and held-out crops have no pixel in common: crops that overlap the strip only in part
        are in neither split. The strip holds the fraction `held_out` of the remaining crops, rounded
        to whole columns of crops, and at least one.
        """
        assert held_out is not None  # checked at load
        train, held = [], []
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            column = self.crops[members, 2]
            columns = int(column.max()) + 1  # at least 4: edm2.params.checks.LARGEST_PHOTO_CROP
            width = min(max(1, round(held_out * (columns - 2))), columns - 3)
            first = generator(seed, "photos/held_out", label).integers(columns - width + 1)
            train.append(members[(column < first - 1) | (column > first + width)])
            held.append(members[(column >= first) & (column < first + width)])
        rng = generator(seed, "split")
        return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(held))

    def identity(self) -> str:
        return "\n".join(f"{path.name} {sha256(path)}" for path in self.paths)

    def _grid_shape(self, pixels: Pixels) -> tuple[int, int]:
        """Number of crops in rows and in columns."""
        height, width = pixels.shape[:2]
        return (
            (height - self.resolution) // self.stride + 1,
            (width - self.resolution) // self.stride + 1,
        )


def _package_file(package: str, name: str) -> Path:
    """A file of an installed package; nothing is downloaded."""
    path = Path(str(files(package))) / name
    if not path.is_file():
        raise UserError(
            f"dataset.source: photos: {path} does not exist: the installed version of {package} "
            "does not include it. Install the versions in constraints.txt."
        )
    return path


def _load_reduced(path: Path, resolution: int) -> NDArray[np.uint8]:
    image = decode_image(path)
    factor = max(1, min(image.size) // (MIN_CROPS * resolution))
    return np.array(image.reduce(factor))
