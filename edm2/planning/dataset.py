"""How many images a dataset has, and what they take on the disk."""

from dataclasses import dataclass
from typing import cast

import numpy as np

from edm2.data.images import image_sample
from edm2.data.sources import Source, open_source
from edm2.params import Params, UserError
from edm2.params.checks import project_root
from edm2.params.codec_checks import latent_layout
from edm2.params.dataset import Dataset

SAMPLED = 32  # images whose size as PNG is taken
PNG_BYTES_PER_PIXEL = 1.35  # of ImageNet at 512×512 (docs/results/scale.md: 451 GB)
TAR_BLOCK = 512
STORED_BYTES = {"float16": 2, "float32": 4}  # of a number
LATENT_HEADER = 160  # bytes of a safetensors file before its tensors


@dataclass(frozen=True)
class DatasetSize:
    """Numbers of a dataset.

    Attributes:
        train, held_out: images of the splits.
        classes: number of classes.
        resolution: of the images.
        latent_shape: of one latent, [C, R, R].
        image_bytes: of an image as a PNG file, in the mean.
        measured: whether images were read for that.
        latent_dtype: of the numbers of latents.
    """

    train: int
    held_out: int
    classes: int
    resolution: int
    latent_shape: tuple[int, int, int]
    image_bytes: float
    measured: bool
    latent_dtype: str = "float16"

    @property
    def images_on_disk(self) -> int:
        """Bytes of the shards of images."""
        return round((self.train + self.held_out) * (_in_tar(self.image_bytes) + _in_tar(1)))

    @property
    def latents_on_disk(self) -> int:
        """Bytes of the shards of latents: mean and standard deviation of each number."""
        numbers = 2 * int(np.prod(self.latent_shape))
        content = STORED_BYTES[self.latent_dtype] * numbers + LATENT_HEADER
        return round(self.train * (_in_tar(content) + _in_tar(1)))


def _in_tar(content: float) -> float:
    """Bytes of a file in a tar: a header, and whole blocks."""
    return TAR_BLOCK + -(-content // TAR_BLOCK) * TAR_BLOCK


def dataset_size(params: Params, images: int | None, classes: int | None) -> DatasetSize:
    """The numbers of the params' dataset, from the source, or from those that the user gives.

    Args:
        images, classes: both or neither; the source is not opened then.

    Raises:
        UserError: only one is given; or the source cannot be read.
    """
    if (images is None) != (classes is None):
        raise UserError(
            f"--images {images}, --classes {classes}: expected both or neither. ImageNet has "
            "--images 1281167 --classes 1000."
        )
    if images is not None and classes is not None and classes > images:
        raise UserError(
            f"--classes {classes}: expected at most the number of images, {images}. Are the two exchanged?"
        )
    dataset = params.dataset
    layout = latent_layout(params, project_root())
    if layout is None:
        raise UserError(
            f"codec.path: {params.codec.path!r}: expected a folder of a VAE that exists."
        )
    side = dataset.resolution // layout[0]
    shape = (layout[1], side, side)
    if images is not None and classes is not None:
        held_out = round((dataset.held_out or 0.0) * images)
        png = PNG_BYTES_PER_PIXEL * dataset.resolution**2
        train, resolution, dtype = images - held_out, dataset.resolution, params.latents.dtype
        return DatasetSize(train, held_out, classes, resolution, shape, png, False, dtype)
    return _scanned(dataset, shape, params.latents.dtype)


def _scanned(dataset: Dataset, shape: tuple[int, int, int], latent_dtype: str) -> DatasetSize:
    source = cast(Source, open_source(dataset))
    train, held_out = (len(part) for part in source.split(dataset.held_out, dataset.seed))
    resolution, classes = dataset.resolution, len(source.classes)
    if not dataset.has_images:
        return DatasetSize(train, held_out, classes, resolution, shape, 0.0, True, latent_dtype)
    chosen = np.unique(np.linspace(0, len(source.labels) - 1, SAMPLED).astype(int))
    sizes = [len(image_sample("", source.image(int(k)), 0)["png"]) for k in chosen]
    size = float(np.mean(sizes))
    return DatasetSize(train, held_out, classes, resolution, shape, size, True, latent_dtype)
