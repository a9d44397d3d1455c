"""Where images come from: every source gives labeled uint8 RGB images, in a fixed order."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edm2.data.pictures import Pixels
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
    """Labeled images. `labels[i]` and `classes` are cheap; `image(i)` reads one."""

    classes: list[str]
    labels: NDArray[np.int64]

    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 HWC RGB of the prepared resolution."""
        ...

    def split(self, held_out: float, seed: int) -> Split:
        """Which images are trained on and which are held out, each in random order.

        A class has at least one of each. Images may stand on neither side.
        """
        ...

    def identity(self) -> str:
        """Changes whenever the images do."""
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
    return Folder(root / dataset.path, dataset.resolution)
