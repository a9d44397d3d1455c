"""Image sources: labeled uint8 RGB images in a fixed order."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edm2.data.decoding import Pixels
from edm2.data.sources.digits import Digits
from edm2.data.sources.folder import Folder
from edm2.data.sources.photos import Photos
from edm2.data.splits import Split
from edm2.params.checks import project_root
from edm2.params.dataset import Dataset
from edm2.params.registry import implementation
from edm2.params.seams import SOURCES

__all__ = ["Digits", "Folder", "Photos", "Source", "open_source"]


class Source(Protocol):
    """Labeled images. `labels` and `classes` are in memory; `image(i)` reads one image.

    A source of files may also have the attributes `left_out`, `left_out_per_class` and `doubtful`
    (see `Folder`): the stage prints them, and the manifest has the counts of `left_out`.
    """

    classes: list[str]
    labels: NDArray[np.int64]

    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 RGB [R, R, 3], at the prepared resolution.

        Raises:
            DamagedImageError: it cannot be decoded. The stage collects these errors.
        """
        ...

    def split(self, held_out: float, seed: int) -> Split:
        """Indices of the training and of the held-out images, each in random order.

        Every class has at least one of each. A source may leave images out of both.
        """
        ...

    def identity(self) -> str:
        """A text that changes whenever the images do."""
        ...


def open_source(dataset: Dataset) -> Source:
    """The source that `dataset.source` names."""
    source: Source = implementation(SOURCES[dataset.source].open)(dataset, project_root())
    return source


def open_digits(dataset: Dataset, root: Path) -> Source:
    return Digits(dataset.resolution)


def open_photos(dataset: Dataset, root: Path) -> Source:
    return Photos(dataset.resolution)


def open_folder(dataset: Dataset, root: Path) -> Source:
    assert dataset.path is not None  # checked at load
    return Folder(root / dataset.path, dataset.resolution, dataset.crop)
