"""Where images come from: every source gives labelled uint8 RGB images, in a fixed order."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edm2.params import UserError
from edm2.params.checks import project_root
from edm2.params.dataset import Dataset

Pixels = NDArray[np.uint8]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class Source(Protocol):
    """Labelled images. `labels[i]` and `classes` are cheap; `image(i)` reads one."""

    classes: list[str]
    labels: NDArray[np.int64]

    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 HWC RGB of the prepared resolution."""
        ...

    def identity(self) -> str:
        """Changes whenever the images do."""
        ...


def open_source(dataset: Dataset) -> Source:
    if dataset.source == "digits":
        return Digits(dataset.resolution)
    assert dataset.path is not None  # checked at load
    return Folder(project_root() / dataset.path, dataset.resolution)


class Digits:
    """The 1797 handwritten digits inside scikit-learn: 8×8 grey, values 0 to 16."""

    def __init__(self, resolution: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.resolution = resolution
        self.grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
        self.labels = digits.target.astype(np.int64)
        self.classes = [str(name) for name in digits.target_names]

    def image(self, index: int) -> Pixels:
        size = (self.resolution, self.resolution)
        grey = Image.fromarray(self.grey[index]).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(grey.convert("RGB"))

    def identity(self) -> str:
        return f"scikit-learn digits, {len(self.labels)} images"


class Folder:
    """Images of any size in one sub-folder per class, nested as deep as one likes."""

    def __init__(self, root: Path, resolution: int) -> None:
        self.resolution = resolution
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files = [(path, label) for label, name in enumerate(self.classes)
                      for path in sorted((root / name).rglob("*"))
                      if path.suffix.lower() in SUFFIXES]  # fmt: skip
        self.labels = np.array([label for _, label in self.files], dtype=np.int64)
        for label, name in enumerate(self.classes):
            if (self.labels == label).sum() < 2:
                raise UserError(
                    f"dataset.path: {root / name}: a class needs at least two images (one of them "
                    f"held out), in {', '.join(sorted(SUFFIXES))}. Add some or remove the folder."
                )
        if not self.classes:
            raise UserError(
                f"dataset.path: {root}: no sub-folders. Put the images of each class into a folder "
                "of its own; with a single class, into a single folder."
            )

    def image(self, index: int) -> Pixels:
        """Cropped to the centre square, resized with an antialiasing filter."""
        path = self.files[index][0]
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path}: cannot be read as an image ({error}). Remove or replace it."
            ) from None
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        size = (self.resolution, self.resolution)
        return np.asarray(square.resize(size, Image.Resampling.LANCZOS))

    def identity(self) -> str:
        facts = ((path, path.stat()) for path, _ in self.files)
        return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in facts)
