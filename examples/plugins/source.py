"""A source: an .npz file with images uint8 [N, H, W, 3] and labels int [N]."""

from pathlib import Path

import numpy as np
from PIL import Image

from edm2.data.splits import Split, split_classes
from edm2.params.dataset import Dataset
from edm2.params.seams import SOURCES, SourceKind
from edm2.runtime.files import describe


class Arrays:
    def __init__(self, dataset: Dataset, root: Path) -> None:
        assert dataset.path is not None  # checked at load, as the source has a path
        self.path, self.resolution = root / dataset.path, dataset.resolution
        with np.load(self.path, allow_pickle=False) as arrays:
            self.images, self.labels = arrays["images"], arrays["labels"].astype(np.int64)
        self.classes = [str(label) for label in range(self.labels.max() + 1)]

    def image(self, index: int) -> np.ndarray:
        size = (self.resolution, self.resolution)
        return np.asarray(Image.fromarray(self.images[index]).resize(size))

    def split(self, held_out: float, seed: int) -> Split:
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return describe([self.path])


SOURCES.register("npz", SourceKind(Arrays, path="file"))
