"""A folder of the user's images."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edm2.data.decoding import IMAGE_ENDINGS
from edm2.data.sources.contents import LATENTS, check_contents
from edm2.data.sources.files import FilesBelow
from edm2.data.sources.label_file import note_numbered_folders
from edm2.data.sources.names import Names
from edm2.data.sources.tree import FolderId, entries, folder_id, image_files
from edm2.data.tally import EXAMPLES, NOT_AN_IMAGE, Tally, ending, printable

# names of splits such as train, Val, test2017, train_images
SPLITS = re.compile(
    r"(train|training|val|valid|validation|dev|eval|test|testing)([\W_]*(\d+|set|images|data))?",
    re.IGNORECASE,
)
NO_CLASS = "image in no class folder"
TWICE = "folder is read twice, through a link: its images may be trained on and held out"
HELD_OUT = "dataset.held_out_path"


class FolderImages(FilesBelow):
    """Images in one subfolder per class and any folders below it.

    `problems` has errors about folders without subfolders, subfolders that are splits, and names of classes
    that are not UTF-8. Folders that are read twice, through links, are doubtful.
    """

    about_folders_read_twice = TWICE

    def __init__(self, root: Path, key: str = "dataset.path") -> None:
        """Find all images in one walk; their pixels, sizes and times are not read."""
        super().__init__(root, key)
        folders = self._class_folders()
        self.classes = [_utf8(folder.name) for folder in folders]
        counts: list[int] = []
        self.files = Names(self._walk(folders, counts))
        self.labels = np.repeat(np.arange(len(folders)), counts)
        self._check_classes()
        note_numbered_folders(self)
        if self.left_out.counts[LATENTS.reason]:
            check_contents(self, len(self.labels))
        self._note_folders_read_twice()

    def class_place(self, label: int) -> str:
        return f"{self.key}: {self.root / printable(self.classes[label])}"

    def _walk(self, folders: list[os.DirEntry[str]], counts: list[int]) -> Iterator[bytes]:
        """The images of all classes; appends how many a class has to `counts`."""
        above = frozenset({folder_id(self.root)}) if folders else frozenset()
        for folder in folders:
            before, counted = self.left_out.counts.total(), 0
            for name in self._images(folder, above):
                counted += 1
                yield os.fsencode(name)
            counts.append(counted)
            self.left_out_per_class.append(self.left_out.counts.total() - before)

    def _images(self, folder: os.DirEntry[str], above: frozenset[FolderId]) -> Iterator[str]:
        return image_files(folder.path, folder.name, self.left_out, above, self.folders)

    def _class_folders(self) -> list[os.DirEntry[str]]:
        folders = []
        for entry in entries(str(self.root), "", self.left_out):
            if entry.is_dir():
                folders.append(entry)
            else:
                image = ending(entry.name) in IMAGE_ENDINGS
                self.left_out.add(NO_CLASS if image else NOT_AN_IMAGE, entry.name)
        splits = [folder for folder in folders if SPLITS.fullmatch(folder.name)]
        if len(splits) > 1 or (splits and len(folders) == 1 and _folders(folders[0])):
            self.problems.append(self._about_splits(splits))
            return []
        if len(folders) == 1:
            self._note_classes_below(folders[0])
        return folders

    def _about_splits(self, splits: list[os.DirEntry[str]]) -> str:
        """The error about folders that are splits and not classes."""
        wanted = "val" if self.key == HELD_OUT else "train"
        chosen = max(splits, key=lambda folder: folder.name.lower().startswith(wanted))
        way_out = f"Set {self.key} to {self.root / chosen.name}"
        if not _folders(chosen):
            way_out = f"Put its images into a subfolder per class, or into a single one. {way_out}"
        if self.key != HELD_OUT:
            way_out += (
                f"; a fraction of each class is held out of it (dataset.held_out), or the images of "
                f"another folder ({HELD_OUT})"
            )
        return (
            f"{self.key}: {self.root}: its subfolders "
            f"{', '.join(printable(folder.name) for folder in splits)} are splits, expected one "
            f"subfolder per class. {way_out}."
        )

    def _note_classes_below(self, only: os.DirEntry[str]) -> None:
        """Count, as doubtful, a single class without images of its own that has folders."""
        below = only
        while len(folders := _folders(below)) == 1 and not _has_images(below):
            below = folders[0]
        if len(folders) > 1 and not _has_images(below):
            names = ", ".join(printable(folder.name) for folder in folders[:EXAMPLES])
            self.doubtful.add(
                f"class has its images in folders ({names}{', ...' * (len(folders) > EXAMPLES)}); if "
                f"these are the classes, set {self.key} to {printable(below.path)}",
                only.name,
            )

    def _check_classes(self) -> None:
        loose = self.left_out.counts[NO_CLASS]
        if not self.classes and not self.problems:
            way_out = (
                "Move each into a subfolder with the name of its class in dataset.path. For ImageNet, "
                "LOC_val_solution.csv has the class of each image"
                if self.key == HELD_OUT
                else "Put the images of each class into a subfolder, even if there is only one class"
            )
            self.problems.append(
                f"{self.key}: {self.root}: contains no subfolders, and {loose} images in no class "
                f"folder. {way_out}."
            )
        self.problems += [
            f"{self.key}: {self.root}: the name of the class folder "
            f"{name.encode('utf-8', 'surrogateescape')!r} is not UTF-8. Rename it."
            for name in self.classes
            if not _is_utf8(name)
        ]


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
    return entries(entry.path, entry.path, Tally())
