"""Images in WebDataset shards made elsewhere, such as those that img2dataset writes."""

import io
import re
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edm2.data.decoding import DamagedImageError, ImageDecodeError, decode_image
from edm2.data.image_members import ImageMembers
from edm2.data.images import ImageDataset
from edm2.data.tally import Tally, listed
from edm2.data.tar_members import member_name
from edm2.data.tars import TarFiles
from edm2.params import UserError
from edm2.params.dataset import Crop


class WebImages(ImageDataset):
    """Every image in some tars (see `ImageMembers`), of any size and mode; all labels are 0.

    Attributes:
        left_out: the members that are no images, by reason.
        skipped: for each image, whether it is skipped. The next one in the tars takes its place, so
            that every other image keeps its number.
        matched: the entries of `skip` that are images here.
        identity: a text that changes with the tars' names and those of their images. Their sizes are
            not in it, so that a damaged image can be replaced while a training is under way.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        resolution: int,
        crop: Crop,
        indices: Path,
        skip: Set[str] = frozenset(),
    ) -> None:
        """Open the tars; those that are not indexed yet are read.

        Args:
            indices: folder where their indices are stored.
            skip: images not to read, as `name` gives them.

        Raises:
            UserError: a tar that is missing, truncated, corrupted, compressed or without images.
        """
        self.resolution, self.crop = resolution, crop
        self.samples = self.files = TarFiles(paths, ImageMembers, indices)
        self.left_out = Tally()
        for notes in self.files.notes:
            self.left_out.update(Tally.from_json(notes["left_out"]))
        self.identity = "\n".join(
            f"{shard.path} {shard.samples} {notes['names_sha256']}"
            for shard, notes in zip(self.files.shards, self.files.notes, strict=True)
        )
        self.skipped, self.matched = self._skip(skip)
        for path, images in zip(paths, self.files.ranges(), strict=True):
            self._check(path, images)

    def _skip(self, skip: Set[str]) -> tuple[NDArray[np.bool_], frozenset[str]]:
        """For each image, whether it is in `skip`; and which entries of `skip` are images."""
        skipped, matched = np.zeros(len(self.files), bool), set[str]()
        tars = {entry[: match.end()] for entry in skip for match in re.finditer(": ", entry)}
        for shard, images in enumerate(self.files.ranges()):
            path = self.files.shards[shard].path
            if member_name(path, "") in tars:
                names = [member_name(path, name) for name in self.files.names(shard)]
                skipped[images.start : images.stop] = [name in skip for name in names]
                matched |= skip & set(names)
        return skipped, frozenset(matched)

    def _check(self, path: Path, images: range) -> None:
        """Refuse a tar without images to read."""
        if not images:
            raise UserError(
                f"{path}: contains no images. Expected files named {{key}}.jpg, .png, .webp or with "
                "another image's ending. Remove this tar from the list, or write it again."
                f"{listed(['left out: ' + text for text in self.left_out.lines()])}"
            )
        if self.skipped[images.start : images.stop].all():
            raise UserError(
                f"{path}: runtime.skip_images lists all of its images. Remove this tar from "
                "vae.images, or some of its lines from runtime.skip_images."
            )

    def __len__(self) -> int:
        return len(self.files)

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        """The image at `index`, or if that is skipped, the next one that is not.

        Raises:
            DamagedImageError: names the tar and the image.
        """
        while self.skipped[index]:
            index = (index + 1) % len(self)
        try:
            return self.decode(index), 0
        except ImageDecodeError as error:
            raise DamagedImageError(
                f"{self.name(index)}: cannot be decoded as an image ({error}). Replace it in the tar, "
                "or leave it out: a line with tar and name, as above, in the file of "
                "runtime.skip_images. Then run this again; a training continues."
            ) from None

    def decode(self, index: int) -> Image.Image:
        """The image at `index`, skipped or not. Raises ImageDecodeError."""
        return decode_image(io.BytesIO(self.files.read(index)))

    def name(self, index: int) -> str:
        """The image's tar, and its name there."""
        return self.files.name(index)
