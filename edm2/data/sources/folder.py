"""A folder of the user's images."""

from pathlib import Path

import numpy as np

from edm2.data.cropping import crop_to_square
from edm2.data.decoding import ImageDecodeError, Pixels, decode_image
from edm2.data.splits import Split, split_classes
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.runtime.files import describe

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class Folder:
    """Images of any size, in one subfolder per class and any folders below it."""

    def __init__(self, root: Path, resolution: int, crop: Crop = "lanczos") -> None:
        """Raises UserError for a folder without subfolders, or a class of fewer than two images."""
        self.resolution, self.crop = resolution, crop
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
                    f"dataset.path: {root / name}: a class needs at least two images, one of them "
                    f"to hold out ({', '.join(sorted(SUFFIXES))}). Add images or remove the folder."
                )
        if not self.classes:
            raise UserError(
                f"dataset.path: {root}: contains no subfolders. Put the images of each class into a "
                "subfolder, even if there is only one class."
            )

    def image(self, index: int) -> Pixels:
        """The center of the image, resized.

        Raises:
            UserError: the file cannot be decoded as an image.
        """
        path = self.files[index][0]
        try:
            return crop_to_square(decode_image(path), self.resolution, self.crop)
        except ImageDecodeError as error:
            raise UserError(
                f"{path}: cannot be decoded as an image ({error}). Remove or replace it."
            ) from None

    def split(self, held_out: float, seed: int) -> Split:
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return describe(path for path, _ in self.files)
