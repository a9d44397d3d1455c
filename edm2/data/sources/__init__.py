"""Where images come from: every source gives labeled uint8 RGB images, in a fixed order."""

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
    if dataset.source == "digits":
        return Digits(dataset.resolution)
    if dataset.source == "photos":
        return Photos(dataset.resolution)
    assert dataset.path is not None  # checked at load
    return Folder(project_root() / dataset.path, dataset.resolution)
