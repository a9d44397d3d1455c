"""Image sources: labeled uint8 RGB images in a fixed order."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edm2.data.decoding import Pixels
from edm2.data.sources.digits import Digits
from edm2.data.sources.files import FileSource, ImageFiles
from edm2.data.sources.folder import FolderImages
from edm2.data.sources.label_file import LABELS
from edm2.data.sources.labeled_folder import LabeledFolderImages
from edm2.data.sources.latents import FolderLatents, LatentSource, ZipLatents
from edm2.data.sources.photos import Photos
from edm2.data.sources.webdataset import TarImages
from edm2.data.sources.zip import ZipImages
from edm2.data.splits import Split
from edm2.data.tars import INDICES
from edm2.params.checks import project_root
from edm2.params.dataset import Dataset
from edm2.params.patterns import matching
from edm2.params.registry import implementation
from edm2.params.seams import SOURCES

__all__ = [
    "Digits",
    "FileSource",
    "FolderImages",
    "LabeledFolderImages",
    "LabeledSource",
    "LatentSource",
    "Photos",
    "Source",
    "TarImages",
    "ZipImages",
    "open_source",
]


class LabeledSource(Protocol):
    """Images, or latents, with labels in memory.

    The main process opens it; other ranks get it pickled, worker processes have a shallow copy.

    A source of files may also have the attributes `left_out`, `left_out_per_class`, `doubtful` and
    `held_out_images` (see `FileSource`): the stage prints them, and the manifest has the first two.
    """

    classes: list[str]
    labels: NDArray[np.int64]

    def split(self, held_out: float | None, seed: int) -> Split:
        """Indices of the training and of the held-out images, each in random order.

        Every class has at least one of each. A source may leave images out of both.

        Args:
            held_out: fraction of each class; None only for sources that take `dataset.held_out_path`.
        """
        ...

    def identity(self) -> str:
        """A text that changes whenever the images do."""
        ...


class Source(LabeledSource, Protocol):
    """Labeled images. Threads may call `image` at the same time."""

    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 RGB [R, R, 3], at the prepared resolution.

        Raises:
            DamagedImageError: it cannot be decoded. The stage collects these errors.
        """
        ...


def open_source(dataset: Dataset) -> LabeledSource:
    """The source that `dataset.source` names: a `Source`, or a `LatentSource` if that has no images."""
    source: LabeledSource = implementation(SOURCES[dataset.source].open)(dataset, project_root())
    return source


def open_digits(dataset: Dataset, root: Path) -> Source:
    return Digits(dataset.resolution)


def open_photos(dataset: Dataset, root: Path) -> Source:
    return Photos(dataset.resolution)


def open_folder(dataset: Dataset, root: Path) -> Source:
    def scan(path: str, key: str) -> ImageFiles:
        labeled = (root / path / LABELS).exists()
        return (LabeledFolderImages if labeled else FolderImages)(root / path, key)

    return _open_files(dataset, root, scan)


def open_zip(dataset: Dataset, root: Path) -> Source:
    return _open_files(dataset, root, lambda path, key: ZipImages(root / path, key))


def open_latents(dataset: Dataset, root: Path) -> LatentSource:
    assert dataset.path is not None  # checked at load
    path, names = root / dataset.path, dataset.classes
    latents = FolderLatents(path) if path.is_dir() else ZipLatents(path)
    return LatentSource(latents, None if names is None else root / names)


def open_webdataset(dataset: Dataset, root: Path) -> Source:
    def scan(pattern: str, key: str) -> ImageFiles:
        return TarImages(matching(pattern, root), dataset.label_field, root / INDICES, key)

    return _open_files(dataset, root, scan)


def open_huggingface(dataset: Dataset, root: Path) -> Source:
    from edm2.data.sources.huggingface import HubImages  # needs the package `datasets`

    def scan(path: str, key: str) -> ImageFiles:
        return HubImages(path, root, dataset.image_field, dataset.label_field, key)

    return _open_files(dataset, root, scan)


def _open_files(dataset: Dataset, root: Path, scan: Callable[[str, str], ImageFiles]) -> Source:
    """The images of `dataset.path` and, if it is set, `dataset.held_out_path`."""
    assert dataset.path is not None  # checked at load
    held_out = dataset.held_out_path
    return FileSource(
        scan(dataset.path, "dataset.path"),
        dataset.resolution,
        dataset.crop,
        None if held_out is None else scan(held_out, "dataset.held_out_path"),
        None if dataset.classes is None else root / dataset.classes,
    )
