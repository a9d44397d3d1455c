"""Images of shards that others made, in the way of img2dataset."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edm2.data.images import Images
from edm2.data.pictures import NotAnImage, open_picture
from edm2.data.shards import TarFiles
from edm2.params import UserError

ENDINGS = ("jpg", "jpeg", "png", "webp")


class WebImages(Images):
    """Every {key}.jpg, .jpeg, .png or .webp in some tars, whatever its size, mode and orientation.

    Other files (.json, .txt, .mask.png) are passed over. Such images have no classes: all labels
    are 0.
    """

    def __init__(self, paths: Sequence[Path], resolution: int) -> None:
        """Read the tars' indices.

        Raises:
            UserError: a tar that is missing, truncated, corrupt, compressed or without images.
        """
        self.resolution = resolution
        self.files = TarFiles(
            paths, ENDINGS.__contains__, "Shards are uncompressed tars; make or copy it again."
        )
        counts = np.bincount(self.files.rows["tar"], minlength=len(paths))
        for path in (path for path, count in zip(paths, counts, strict=True) if not count):
            raise UserError(
                f"{path}: no images in it: expected files with the names {{key}}."
                f"{', .'.join(ENDINGS)}. Leave this tar out, or look how it was made."
            )

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> tuple[Image.Image, int]:
        """Raises UserError for what cannot be read as an image, naming tar and file."""
        try:
            return open_picture(io.BytesIO(self.files.content(index))), 0
        except NotAnImage as error:
            raise UserError(
                f"{self.files.tar(index)}: {self.files.name(index)}: cannot be read as an image "
                f"({error}). Remove it from the tar, or leave the tar out."
            ) from None
