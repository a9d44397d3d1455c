"""A folder of the user's images."""

import os
from pathlib import Path

import numpy as np

from edm2.data.cropping import crop_to_square
from edm2.data.decoding import (
    FEW_BITS,
    IMAGE_ENDINGS,
    DamagedImageError,
    ImageDecodeError,
    Pixels,
    decode_image,
)
from edm2.data.sources.tree import entries, identity, image_files
from edm2.data.splits import Split, split_classes
from edm2.data.tally import NOT_AN_IMAGE, Tally, ending, listed, printable
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.runtime.files import describe

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class Folder:
    """Images of any size, in one subfolder per class and any folders below it.

    Attributes:
        left_out: files and folders that are not read, by reason.
        left_out_per_class: how many of them are in the folder of each class.
        doubtful: images that are read, and may not be meant as they are.
    """

    def __init__(self, root: Path, resolution: int, crop: Crop) -> None:
        """Find all images; their pixels are not read.

        Raises:
            UserError: a folder without subfolders, or with subfolders that are splits; classes of
                fewer than two images, or whose names are not UTF-8 (all of them are listed).
        """
        self.root, self.resolution, self.crop = root, resolution, crop
        self.left_out, self.doubtful = Tally(), Tally()
        folders = self._class_folders()
        self.classes = [folder.name for folder in folders]
        self.files: list[tuple[Path, int]] = []
        self.left_out_per_class = []
        for label, folder in enumerate(folders):
            before = self.left_out.counts.total()
            above = frozenset({identity(root)})
            paths = sorted(image_files(Path(folder.path), root, self.left_out, above))
            self.files += [(path, label) for path in paths]
            self.left_out_per_class.append(self.left_out.counts.total() - before)
        self.labels = np.array([label for _, label in self.files], dtype=np.int64)
        self._check_classes()

    def image(self, index: int) -> Pixels:
        """The center of the image, resized.

        Raises:
            DamagedImageError: the file cannot be decoded as an image.
        """
        path = self.files[index][0]
        try:
            image = decode_image(path)
        except ImageDecodeError as error:
            raise DamagedImageError(
                f"{printable(str(path))}: cannot be decoded as an image ({error})"
            ) from None
        if FEW_BITS in image.info:
            self.doubtful.add(FEW_BITS, path.relative_to(self.root).as_posix())
        return crop_to_square(image, self.resolution, self.crop)

    def split(self, held_out: float, seed: int) -> Split:
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return describe(path for path, _ in self.files)

    def _class_folders(self) -> list[os.DirEntry[str]]:
        folders = []
        for entry in entries(self.root, self.root, self.left_out):
            if entry.is_dir():
                folders.append(entry)
            else:
                image = ending(entry.name) in IMAGE_ENDINGS
                self.left_out.add("image in no class folder" if image else NOT_AN_IMAGE, entry.name)
        names = [folder.name for folder in folders]
        splits = [name for name in names if name.lower() in SPLITS]
        if len(splits) > 1 or (splits and splits == names and _has_folders(folders[0])):
            training = max(splits, key=lambda name: name.lower().startswith("train"))
            raise UserError(
                f"dataset.path: {self.root}: its subfolders {', '.join(splits)} are splits, expected "
                f"one subfolder per class. Set dataset.path to {self.root / training}; a fraction of "
                "each class is held out of it (dataset.held_out)."
            )
        return folders

    def _check_classes(self) -> None:
        """Raise an error that lists all classes that cannot be used."""
        if not self.classes:
            raise UserError(
                f"dataset.path: {self.root}: contains no subfolders. Put the images of each class "
                f"into a subfolder, even if there is only one class.{self._reasons()}"
            )
        problems = [
            f"dataset.path: {self.root}: the name of the class folder {os.fsencode(name)!r} is not "
            "UTF-8. Rename it."
            for name in self.classes
            if not _is_utf8(name)
        ]
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        problems += [
            f"dataset.path: {self.root / printable(name)}: a class needs at least two images, one of "
            f"them to hold out, and this has {count}. Add images or remove the folder."
            for name, count in zip(self.classes, counts, strict=True)
            if count < 2
        ]
        if problems:
            raise UserError("\n".join(problems) + self._reasons())

    def _reasons(self) -> str:
        """What is left out, for errors about images that are missing."""
        lines = self.left_out.lines()
        return f"\nLeft out are:{listed(lines)}" if lines else ""


def _is_utf8(name: str) -> bool:
    """Whether a file name is text; Python has bytes that are not as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _has_folders(entry: os.DirEntry[str]) -> bool:
    return any(child.is_dir() for child in entries(Path(entry.path), Path(entry.path), Tally()))
