"""Images of one size, or resized to one, from files of any: what `edm2 measure` compares."""

import torch
from PIL import Image

from edm2.data.cropping import crop_to_square
from edm2.data.decoding import DamagedImageError
from edm2.data.images import ImageDataset, to_chw
from edm2.data.sources.files import ImageFiles
from edm2.data.tally import Tally, listed
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.runtime.distributed import gather_object, on_main_process, share
from edm2.runtime.progress import track


class OddSizeError(UserError):
    """An image has another size than the first one, or is not square; `refuse_odd_sizes` lists all."""


class SizedImages(ImageDataset):
    """The first images of some files, as squares of one size; all labels are 0.

    Attributes:
        resize: side in pixels to which images are cropped and resized; None: they must have the side
            `resolution` already, which is that of the first one.
        doubtful: images that were decoded, and may not be meant as they are.
    """

    def __init__(self, files: ImageFiles, resize: int | None, crop: Crop, count: int) -> None:
        """
        Raises:
            UserError: none of the images can be decoded.
        """
        self.files, self.resize, self.crop, self.count = files, resize, crop, count
        self.doubtful = Tally()
        self.resolution = resize or min(self._first_size())

    def __len__(self) -> int:
        return self.count

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        """Raises DamagedImageError."""
        return self.files.decode(index, self.doubtful), 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Raises DamagedImageError; or OddSizeError, without `resize`."""
        image, label = self.load_image(index)
        if self.resize is None and not self._fits(image):
            raise OddSizeError(f"{self.files.name(index)}: {_pixels(image)}")
        return to_chw(crop_to_square(image, self.resolution, self.crop)), label

    def refuse_odd_sizes(self) -> None:
        """Raise an error that counts the images of each size. Every rank must call this.

        Raises:
            UserError: always.
        """
        sizes = Tally()
        for index in track(share(len(self)), "read sizes", len(share(len(self))), "img"):
            try:
                size = f"of {_pixels(self.load_image(index)[0])}"
            except DamagedImageError:
                size = "that cannot be decoded"
            sizes.add(size, self.files.name(index))
        parts = gather_object(sizes)

        def refuse() -> None:
            total = Tally()
            for part in parts:
                total.update(part)
            raise UserError(
                f"{self.files.place}: expected square images of one size, found:"
                f"{listed(total.lines())}\nUse --resize to crop and resize all of them to squares of one "
                "size, or remove those that do not belong here."
            )

        on_main_process(refuse)

    def _first_size(self) -> tuple[int, int]:
        """That of the first image that can be decoded.

        Raises:
            UserError: none can be decoded.
        """
        damaged = []
        for index in range(len(self)):
            try:
                return self.files.decode(index, Tally()).size
            except DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(
            f"{self.files.place}: none of its {len(self)} images can be decoded:{listed(damaged)}"
        )

    def _fits(self, image: Image.Image) -> bool:
        return image.size == (self.resolution, self.resolution)


def _pixels(image: Image.Image) -> str:
    return f"{image.width}×{image.height} pixels"
