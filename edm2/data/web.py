"""Images in WebDataset shards made elsewhere, such as those that img2dataset writes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edm2.data.decoding import ImageDecodeError, decode_image
from edm2.data.images import ImageDataset
from edm2.data.shards import TarFiles
from edm2.params import UserError
from edm2.params.dataset import Crop

EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class WebImages(ImageDataset):
    """Every {key}.jpg, .jpeg, .png and .webp in some tars, of any size, mode and EXIF orientation.

    Other files (.json, .txt, .mask.png) are skipped. These images have no classes: all labels are 0.
    """

    def __init__(self, paths: Sequence[Path], resolution: int, crop: Crop = "lanczos") -> None:
        """Read the tars' indices.

        Raises:
            UserError: a tar that is missing, truncated, corrupted, compressed or without images.
        """
        self.resolution, self.crop = resolution, crop
        self.files = TarFiles(
            paths,
            EXTENSIONS.__contains__,
            "Shards must be uncompressed tars. Download or write this one again.",
        )
        counts = np.bincount(self.files.rows["tar"], minlength=len(paths))
        for path in (path for path, count in zip(paths, counts, strict=True) if not count):
            raise UserError(
                f"{path}: contains no images. Expected files named {{key}}."
                f"{', .'.join(EXTENSIONS)}. Remove this tar from the list, or write it again."
            )

    def __len__(self) -> int:
        return len(self.files)

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        """Raises UserError, naming tar and file, if it cannot be decoded."""
        try:
            return decode_image(io.BytesIO(self.files.read(index))), 0
        except ImageDecodeError as error:
            raise UserError(
                f"{self.files.tar(index)}: {self.files.name(index)}: cannot be decoded as an image "
                f"({error}). Remove it from the tar, or do not use this tar."
            ) from None
