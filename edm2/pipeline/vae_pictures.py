"""Pictures of held-out images and their reconstructions, over a training and at its end."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edm2.data.images import ImageDataset, to_float, to_uint8
from edm2.params.vae import Vae
from edm2.pipeline.vae_images import GRID_IMAGES
from edm2.reporting.grids import write_rows
from edm2.runtime.manifest import write_manifest
from edm2.runtime.temporaries import remove
from edm2.vae.codec import Codec
from edm2.vae.low_pass import low_pass_mask

GAIN = 4  # of differences: a pixel that is wrong by 64 of 255 or more is white
MIN_IMAGES = 4
MAX_GRID_PIXELS = 2**22  # of a picture, without labels
MAX_PIXELS = 2**25  # of all pictures of a training: 100 MB, if nothing can be compressed


def grid_images(images: ImageDataset, mask: bool, pictures: int = 1) -> int:
    """How many of the first images are drawn: GRID_IMAGES, or of large images fewer.

    Args:
        mask: as in `draw_reconstructions`.
        pictures: number of pictures that MAX_PIXELS must be enough for.
    """
    fitting = min(MAX_GRID_PIXELS, MAX_PIXELS // pictures) // _column_pixels(images, mask)
    return min(max(fitting, MIN_IMAGES), GRID_IMAGES, len(images))


def _column_pixels(images: ImageDataset, mask: bool) -> int:
    """Of one image in a picture, with all that is below it."""
    return (3 + mask) * images.resolution**2


def draw_reconstructions(
    path: Path, codec: Codec, images: torch.Tensor, device: torch.device, mask: bool
) -> None:
    """Write images uint8 [N, 3, R, R], below them their reconstructions and the differences of the two.

    Args:
        mask: also the mask of the low-pass loss.
    """
    decoded = codec.decode(codec.encode(images.to(device))[0]).cpu()
    difference = (decoded.int() - images.int()).abs() * GAIN
    rows = {
        "image": images,
        "reconstruction": decoded,
        f"difference x{GAIN}": difference.clamp(max=255).to(torch.uint8),
    }
    if mask:
        rows["mask"] = to_uint8(low_pass_mask(to_float(images)) * 2 - 1).expand_as(images)
    write_rows(path, rows)


@dataclass(frozen=True)
class ProgressPictures:
    """A picture of the same held-out images at each evaluation; of very large images at some of them.

    Files are named by the images seen. The number of images in each, and the evaluations, follow from
    `params` and the size of the images, so that a training that is resumed has the same pictures.
    """

    folder: Path
    params: Vae
    images: ImageDataset
    device: torch.device

    @property
    def count(self) -> int:
        """How many images a picture has."""
        return grid_images(self.images, self._mask, self._evaluations)

    @property
    def every(self) -> int:
        """Every how many evaluations there is a picture, counted back from the last one."""
        fitting = max(1, MAX_PIXELS // (self.count * _column_pixels(self.images, self._mask)))
        return -(-self._evaluations // fitting)

    def draw(self, codec: Codec, nimg: int) -> Path | None:
        """Write the picture of time `nimg`; returns its file, None if there is none at this time."""
        if (self._evaluations - nimg // self.params.evaluate_nimg) % self.every:
            return None
        path = self.folder / f"{nimg:012d}.png"
        images, _ = self.images.batch(range(self.count))
        draw_reconstructions(path, codec, images, self.device, self._mask)
        return path

    def rollback(self, nimg: int) -> None:
        """Remove the pictures of later times: the training continues from `nimg`."""
        for path in self.folder.glob("*.png"):
            if int(path.stem) > nimg:
                remove(path)

    def finish(self) -> None:
        """List the files with their checksums."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_manifest(self.folder)

    @property
    def _mask(self) -> bool:
        return self.params.losses.low_pass > 0

    @property
    def _evaluations(self) -> int:
        """At most so many, at least 1."""
        return max(1, self.params.duration_nimg // self.params.evaluate_nimg)
