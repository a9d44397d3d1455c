"""Images in any folder, zip or tars, whatever their classes: what `edm2 measure` reads."""

import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edm2.data.image_members import ImageMembers
from edm2.data.sources.files import FilesBelow, ImageFiles, below, files_digest
from edm2.data.sources.label_file import LABELS
from edm2.data.sources.names import Names
from edm2.data.sources.tree import image_files
from edm2.data.sources.zip import ZipImages
from edm2.data.tally import Tally, listed, printable
from edm2.data.tars import TarFiles
from edm2.params import UserError
from edm2.params.patterns import hint, matching

GRID, SAMPLES = "grid.png", "samples.json"  # of `edm2 sample`


def open_unlabeled(path: str, key: str, indices: Path) -> ImageFiles:
    """The images at a path; all of them are of one class.

    Args:
        path: a folder, whose subfolders are read as well; a zip; a tar, or a pattern of tars such as
            web/{00000..00099}.tar.
        key: what names the path, for errors.
        indices: folder where the indices of tars are stored.

    Raises:
        UserError: there is nothing at the path, or no image in it.
    """
    place = Path(path)
    if place.is_dir():
        files: ImageFiles = UnlabeledFolder(place, key)
    elif place.suffix.lower() == ".zip" and place.is_file():
        files = UnlabeledZip(place, key)
    elif tars := _tars(path, key):
        files = UnlabeledTars(tars, key, indices)
    else:
        raise UserError(
            f"{key}: {printable(path)}: expected a folder of images, a zip, or tars{hint(path, place)}. "
            "Correct the path, or the pattern of the tars."
        )
    _require_images(files, place)
    return files


class UnlabeledFolder(FilesBelow):
    """Every image below a folder, in the order of their names; a grid of samples is left out."""

    def __init__(self, root: Path, key: str) -> None:
        super().__init__(root, key)
        found = image_files(
            str(root), "", self.left_out, entered=self.folders, known={LABELS, SAMPLES}
        )
        self.files = Names(os.fsencode(name) for name in found if not self._is_grid(name))
        self.classes, self.labels = ["all"], np.zeros(len(self.files), dtype=np.int64)
        self._note_folders_read_twice()

    def _is_grid(self, name: str) -> bool:
        path = self.root / name
        if path.name != GRID or not path.with_name(SAMPLES).exists():
            return False
        self.left_out.add("grid of samples, made by `edm2 sample`", name)
        return True


class UnlabeledZip(ZipImages):
    """Every image in a zip, in the order of their names."""

    def _labeled(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        images = sorted(self._images(archive), key=lambda member: member.filename)
        self.classes, self.labels = ["all"], np.zeros(len(images), dtype=np.int64)
        return images


class UnlabeledTars(ImageFiles):
    """Every image in some tars, in their order."""

    def __init__(self, paths: Sequence[Path], key: str, indices: Path) -> None:
        super().__init__(key, f"{paths[0]}" + f" and {len(paths) - 1} more" * (len(paths) > 1))
        self.tars = TarFiles(paths, ImageMembers, indices)
        for notes in self.tars.notes:
            self.left_out.update(Tally.from_json(notes["left_out"]))
        self.tars.notes.clear()  # not to be pickled
        self.classes, self.labels = ["all"], np.zeros(len(self.tars), dtype=np.int64)

    def read(self, index: int) -> bytes:
        return self.tars.read(index)

    def name(self, index: int) -> str:
        return self.tars.name(index)

    def identity(self) -> str:
        folder = Path(os.path.commonpath([path.parent for path in self.tars.paths]))
        return files_digest(folder, below(folder, self.tars.paths))


def _tars(pattern: str, key: str) -> list[Path]:
    """The tar at a path, or the files of a pattern; none for another file."""
    if Path(pattern).is_file():
        return [Path(pattern)] if ".tar" in Path(pattern).suffixes else []
    try:
        return matching(pattern, Path.cwd())
    except ValueError as error:
        raise UserError(
            f"{key}: {pattern}: not a pattern of files ({error}). Close its braces."
        ) from None


def _require_images(files: ImageFiles, place: Path) -> None:
    """
    Raises:
        UserError: there are no images, or some that cannot be read.
    """
    if len(files.labels) and not files.problems:
        return
    problems: Iterable[str] = files.problems or [f"{files.key}: {files.place}: contains no images."]
    if place.is_dir() and any(place.glob("*.tar")):
        problems = [f"{files.key}: {place}: contains tars. Name them: '{place}/*.tar'."]
    reasons = files.left_out.lines()
    raise UserError("\n".join(problems) + (f"\nLeft out are:{listed(reasons)}" if reasons else ""))
