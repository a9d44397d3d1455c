"""A folder of the user's images."""

import os
import re
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
from edm2.data.tally import EXAMPLES, NOT_AN_IMAGE, Tally, ending, listed, printable
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.runtime.files import describe

# names of splits such as train, Val, test2017, train_images
SPLITS = re.compile(
    r"(train|training|val|valid|validation|dev|eval|test|testing)([\W_]*(\d+|set|images|data))?",
    re.IGNORECASE,
)


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
        self.classes = [_utf8(folder.name) for folder in folders]
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
        splits = [folder for folder in folders if SPLITS.fullmatch(folder.name)]
        if len(splits) > 1 or (splits and len(names) == 1 and _folders(folders[0])):
            raise UserError(self._about_splits(splits))
        if len(folders) == 1:
            self._note_classes_below(folders[0])
        return folders

    def _about_splits(self, splits: list[os.DirEntry[str]]) -> str:
        """The error about folders that are splits and not classes."""
        training = max(splits, key=lambda folder: folder.name.lower().startswith("train"))
        path = self.root / training.name
        way_out = f"Set dataset.path to {path}"
        if not _folders(training):
            way_out = f"Put its images into a subfolder per class, or into a single one. {way_out}"
        return (
            f"dataset.path: {self.root}: its subfolders "
            f"{', '.join(printable(folder.name) for folder in splits)} are splits, expected one "
            f"subfolder per class. {way_out}; a fraction of each class is held out of it "
            "(dataset.held_out)."
        )

    def _note_classes_below(self, only: os.DirEntry[str]) -> None:
        """Count, as doubtful, a single class without images of its own that has folders."""
        below = only
        while len(folders := _folders(below)) == 1 and not _has_images(below):
            below = folders[0]
        if len(folders) > 1 and not _has_images(below):
            path = Path(below.path)
            names = ", ".join(printable(folder.name) for folder in folders[:EXAMPLES])
            self.doubtful.add(
                f"class has its images in folders ({names}{', ...' * (len(folders) > EXAMPLES)}); if "
                f"these are the classes, set dataset.path to {printable(str(path))}",
                only.name,
            )

    def _check_classes(self) -> None:
        """Raise an error that lists all classes that cannot be used."""
        if not self.classes:
            raise UserError(
                f"dataset.path: {self.root}: contains no subfolders. Put the images of each class "
                f"into a subfolder, even if there is only one class.{self._reasons()}"
            )
        problems = [
            f"dataset.path: {self.root}: the name of the class folder "
            f"{name.encode('utf-8', 'surrogateescape')!r} is not UTF-8. Rename it."
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


def _utf8(name: str) -> str:
    """A file name as text, whatever the locale; bytes that are not UTF-8 are surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _is_utf8(name: str) -> bool:
    """Whether a name is text, without surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _folders(entry: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [child for child in _children(entry) if child.is_dir()]


def _has_images(entry: os.DirEntry[str]) -> bool:
    return any(ending(child.name) in IMAGE_ENDINGS for child in _children(entry))


def _children(entry: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return entries(Path(entry.path), Path(entry.path), Tally())
