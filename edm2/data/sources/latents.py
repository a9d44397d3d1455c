"""Latents as EDM2's tools write them, without images: a zip of NumPy files, or the same unpacked."""

import io
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edm2.data.decoding import ImageDecodeError
from edm2.data.sources.contents import LATENTS
from edm2.data.sources.files import ImageFiles, LabeledFiles
from edm2.data.sources.labeled_folder import LabeledFolderImages
from edm2.data.sources.zip import ZipImages
from edm2.data.splits import Split
from edm2.params import UserError
from edm2.runtime.randomness import generator
from edm2.runtime.system_errors import DENIED, is_of_machine

FORM = "means and then standard deviations of {} channels"
Shape = tuple[int, int, int]  # C, H, W


class DamagedLatentError(UserError):
    """A latent cannot be read, or is none; the message names its file and says why."""


class ZipLatents(ZipImages):
    """The latents in a zip, without unpacking it."""

    contents = LATENTS


class FolderLatents(LabeledFolderImages):
    """The latents below a folder."""

    contents = LATENTS


class LatentSource(LabeledFiles):
    """Mean and standard deviation of each image's latent, on the codec's own scale; all to train on."""

    def __init__(self, latents: ImageFiles, class_names: Path | None = None) -> None:
        """Raises UserError; see `LabeledFiles`."""
        super().__init__([latents], 1, class_names)

    def latent(self, index: int, shape: Shape) -> NDArray[np.float32]:
        """Mean and standard deviation, [2, C, H, W].

        Args:
            shape: of a latent, C, H, W.

        Raises:
            DamagedLatentError: the file cannot be read, has another dtype or shape, a value that is not
                finite, or a negative standard deviation.
        """
        values = self._array(index)
        channels, *side = shape
        if values.shape != (2 * channels, *side):
            wanted = f"{[2 * channels, *side]}, {FORM.format(channels)}"
            raise self._damaged(index, f"has shape {list(values.shape)}, expected {wanted}")
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise self._damaged(index, f"{count} of {values.size} values are not finite")
        latent = values.reshape(2, *shape)
        if (latent[1] < 0).any():
            raise self._damaged(index, f"has negative standard deviations ({latent[1].min():g})")
        return latent

    def file_shape(self, index: int) -> tuple[int, ...]:
        """Shape of the array in a file, [2 C, H, W]. Raises DamagedLatentError."""
        return self._array(index).shape

    def split(self, held_out: float | None, seed: int) -> Split:
        """All latents in random order, and none that are held out: nothing could be measured with them."""
        return generator(seed, "split").permutation(len(self.labels)), np.empty(0, np.int64)

    def _array(self, index: int) -> NDArray[np.float32]:
        try:
            return read_array(self.parts[0].read(int(index)))
        except (ImageDecodeError, OSError, ValueError) as error:
            if is_of_machine(error, DENIED):
                raise
            raise self._damaged(index, f"cannot be read ({error})") from None

    def latent_name(self, index: int) -> str:
        """The file of a latent, in messages."""
        return self.parts[0].name(int(index))

    def _damaged(self, index: int, reason: str) -> DamagedLatentError:
        return DamagedLatentError(f"{self.latent_name(index)}: {reason}")


def read_array(content: bytes) -> NDArray[np.float32]:
    """The array of a NumPy file, as a view of `content`; nothing in it is run.

    Raises:
        ValueError: it is no NumPy file, has numbers other than float32, or more or fewer than it says.
    """
    start = npy.MAGIC_LEN + 2 + int.from_bytes(content[npy.MAGIC_LEN : npy.MAGIC_LEN + 2], "little")
    shape, in_columns, dtype = _header(content[:start])
    if dtype != np.float32:
        raise ValueError(f"has numbers of type {dtype}, expected float32")
    size = 4 * prod(shape)
    if len(content) - start != size:
        raise ValueError(f"has {len(content) - start} bytes of numbers, expected {size}")
    values = np.frombuffer(content, np.float32, offset=start)
    return values.reshape(shape, order="F" if in_columns else "C")


@lru_cache(
    8
)  # those of a data set are equal, and parsing one takes longer than reading its numbers
def _header(content: bytes) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    """Shape, whether it is stored in columns, and dtype."""
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"NumPy file of version {version}, expected (1, 0)")
    return npy.read_array_header_1_0(stream)
