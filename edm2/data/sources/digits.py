"""The handwritten digits that ship with scikit-learn."""

import numpy as np
from PIL import Image

from edm2.data.decoding import Pixels
from edm2.data.splits import Split, split_classes


class Digits:
    """1797 digits in 10 classes, stored as 8×8 grayscale with values 0 to 16."""

    def __init__(self, resolution: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.resolution = resolution
        self.gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
        self.labels = digits.target.astype(np.int64)
        self.classes = [str(name) for name in digits.target_names]

    def image(self, index: int) -> Pixels:
        size = (self.resolution, self.resolution)
        gray = Image.fromarray(self.gray[index]).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(gray.convert("RGB"))

    def split(self, held_out: float | None, seed: int) -> Split:
        assert held_out is not None  # checked at load
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return f"scikit-learn digits, {len(self.labels)} images"
