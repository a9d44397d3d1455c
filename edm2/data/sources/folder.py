"""A folder of one's own images."""

from pathlib import Path

import numpy as np

from edm2.data.pictures import NotAnImage, Pixels, centre_square, open_picture, resized
from edm2.data.splits import Split, split_classes
from edm2.params import UserError
from edm2.runtime.files import describe

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class Folder:
    """Images of any size in one sub-folder per class, nested as deep as one likes."""

    def __init__(self, root: Path, resolution: int) -> None:
        self.resolution = resolution
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
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
        """Cropped to the center square, resized with an antialiasing filter."""
        path = self.files[index][0]
        try:
            return resized(centre_square(open_picture(path)), self.resolution)
        except NotAnImage as error:
            raise UserError(
                f"{path}: cannot be read as an image ({error}). Remove or replace it."
            ) from None

    def split(self, held_out: float, seed: int) -> Split:
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return describe(path for path, _ in self.files)
