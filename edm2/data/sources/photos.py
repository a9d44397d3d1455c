"""Crops of the color photographs inside scikit-image and scikit-learn."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edm2.data.pictures import Pixels, open_picture
from edm2.data.splits import Split
from edm2.params import UserError
from edm2.runtime.files import sha256
from edm2.runtime.randomness import generator

LEAST_CROPS = 8  # side by side along a photograph's shorter side, if it is large enough
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
    """Ten photographs that come with the packages; a class is the crops of one of them.

    A large photograph is reduced first by a whole factor, as long as `LEAST_CROPS` crops fit side by
    side: crops then show things and not only texture. A reduced pixel is the mean of a block of its
    own, so that pixels which do not overlap share nothing of the original either. Crops start at
    every half crop, down and across.
    """

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.stride = (resolution + 1) // 2  # so that every other crop has no pixel in common
        self.classes = list(PHOTOGRAPHS)
        self.paths = [_installed(*place) for place in PHOTOGRAPHS.values()]
        self.photographs = [_reduced(path, resolution) for path in self.paths]  # [H, W, 3] each
        # photograph, row and column of each crop: [N, 3]
        self.places = np.concatenate(
            [
                np.insert(np.argwhere(np.ones(self._crops(pixels))), 0, label, axis=1)
                for label, pixels in enumerate(self.photographs)
            ]
        )
        self.labels = self.places[:, 0]

    def image(self, index: int) -> Pixels:
        photograph, row, column = self.places[index]
        top, left = row * self.stride, column * self.stride
        crop = self.photographs[photograph][top : top + self.resolution]
        return crop[:, left : left + self.resolution]

    def split(self, held_out: float, seed: int) -> Split:
        """Held out is a strip from top to bottom of each photograph, somewhere across.

        Its crops and those of training have no pixel in common: crops that lie in part inside the
        strip are on neither side. The strip has the fraction `held_out` of what remains, to the
        nearest column of crops.
        """
        train, held = [], []
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            column = self.places[members, 2]
            columns = int(column.max()) + 1  # at least 4: edm2.params.checks.LARGEST_PHOTO_CROP
            width = min(max(1, round(held_out * (columns - 2))), columns - 3)
            first = generator(seed, "photos/held_out", label).integers(columns - width + 1)
            train.append(members[(column < first - 1) | (column > first + width)])
            held.append(members[(column >= first) & (column < first + width)])
        rng = generator(seed, "split")
        return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(held))

    def identity(self) -> str:
        return "\n".join(f"{path.name} {sha256(path)}" for path in self.paths)

    def _crops(self, pixels: Pixels) -> tuple[int, int]:
        """Rows and columns of crops."""
        height, width = pixels.shape[:2]
        return (
            (height - self.resolution) // self.stride + 1,
            (width - self.resolution) // self.stride + 1,
        )


def _installed(package: str, name: str) -> Path:
    """A file of an installed package; nothing is ever downloaded."""
    path = Path(str(files(package))) / name
    if not path.is_file():
        raise UserError(
            f"dataset.source: photos: {path} is not there: this version of {package} "
            "does not bring it. Install the versions of constraints.txt."
        )
    return path


def _reduced(path: Path, resolution: int) -> NDArray[np.uint8]:
    picture = open_picture(path)
    factor = max(1, min(picture.size) // (LEAST_CROPS * resolution))
    return np.array(picture.reduce(factor))
