"""Image sources: labeled uint8 RGB images in a fixed order."""

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

__all__ = ["Digits", "Folder", "Photos", "Source", "open_source"]


class Source(Protocol):
    """Labeled images. `labels` and `classes` are in memory; `image(i)` reads one image."""

    classes: list[str]
    labels: NDArray[np.int64]

    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 RGB [R, R, 3], at the prepared resolution."""
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
    if dataset.source == "digits":
        return Digits(dataset.resolution)
    if dataset.source == "photos":
        return Photos(dataset.resolution)
    assert dataset.path is not None  # checked at load
    return Folder(project_root() / dataset.path, dataset.resolution)
