"""Sources whose images are files: what all of them have in common."""

import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edm2.data.cropping import crop_to_square
from edm2.data.decoding import (
    FEW_BITS,
    DamagedImageError,
    ImageDecodeError,
    Pixels,
    decode_image,
)
from edm2.data.sources.class_names import read_class_names
from edm2.data.sources.contents import IMAGES
from edm2.data.sources.names import Names
from edm2.data.sources.tree import FolderId
from edm2.data.splits import Split, split_classes
from edm2.data.tally import MAX_LINES, Tally, listed, printable
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.runtime.limits import MAX_FILE_BYTES
from edm2.runtime.randomness import generator
from edm2.runtime.system_errors import DENIED, is_of_machine


class ImageFiles(ABC):
    """The images that one path holds, found but not decoded.

    It is pickled for other ranks, so it holds arrays, and opens files when it reads.

    Attributes:
        contents: what the files are; without a subclass for latents, images.
        key: the field of the params with the path, for errors.
        place: the path, for errors.
        classes: names, by label.
        labels: int64 [N].
        numbered: whether labels are numbers in the files, and not names.
        left_out: what is not read, by reason.
        left_out_per_class: how many of them belong to each class, where that is known.
        doubtful: what is read, and may not be meant as it is.
        problems: errors, all of which are reported at once.
        folders: identity and name of each folder whose files are images here.
    """

    classes: list[str]
    labels: NDArray[np.int64]
    numbered = False
    contents = IMAGES

    def __init__(self, key: str, place: str) -> None:
        self.key, self.place = key, place
        self.left_out, self.doubtful = Tally(), Tally()
        self.left_out_per_class: list[int] = []
        self.problems: list[str] = []
        self.folders: list[tuple[FolderId, str]] = []

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The file of an image. Raises OSError or ImageDecodeError."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The image in messages; printable."""

    @abstractmethod
    def identity(self) -> str:
        """A text that changes whenever the images do."""

    def decode(self, index: int, doubtful: Tally) -> Image.Image:
        """An image in RGB, at its stored size.

        Args:
            doubtful: receives it if it is perhaps not meant as it is.

        Raises:
            DamagedImageError: the file cannot be read, or decoded as an image.
        """
        try:
            image = decode_image(io.BytesIO(self.read(index)))
        except (ImageDecodeError, OSError) as error:
            if is_of_machine(error, DENIED):
                raise
            raise DamagedImageError(
                f"{self.name(index)}: cannot be decoded as an image ({error})"
            ) from None
        if FEW_BITS in image.info:
            doubtful.add(FEW_BITS, self.name(index))
        return image

    def class_place(self, label: int) -> str:
        """A class in messages."""
        return f"{self.key}: {self.place}: class {printable(self.classes[label])}"


class FilesBelow(ImageFiles):
    """Images in files below a folder.

    Attributes:
        root: the folder.
        files: their names relative to it, as the system has them.
    """

    files: Names
    about_folders_read_twice = "folder is read twice, through a link: its images count twice"

    def __init__(self, root: Path, key: str) -> None:
        super().__init__(key, str(root))
        self.root = root

    def read(self, index: int) -> bytes:
        with open(self._path(index), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise ImageDecodeError(f"a file of more than {MAX_FILE_BYTES // 2**20} MiB")
            return file.read()

    def name(self, index: int) -> str:
        return printable(os.fsdecode(self._path(index)))

    def identity(self) -> str:
        return files_digest(self.root, (self.files[k] for k in range(len(self.files))))

    def _note_folders_read_twice(self) -> None:
        first: dict[FolderId, str] = {}
        for folder, name in self.folders:
            if first.setdefault(folder, name) != name:
                self.doubtful.add(
                    self.about_folders_read_twice, f"{name} is {first[folder] or self.root}"
                )

    def _path(self, index: int) -> bytes:
        return os.fsencode(self.root) + b"/" + self.files[index]


class LabeledFiles:
    """Files with labels: those to train on, and perhaps others that are held out.

    Attributes:
        classes: names, by label.
        labels: int64 [N], of the training images and then of those held out.
        held_out_images: how many of these have a path of their own (`dataset.held_out_path`).
        left_out: files and folders that are not read, by reason.
        left_out_per_class: how many of them belong to each class, where that is known.
        doubtful: files that are read, and may not be meant as they are.
    """

    def __init__(self, parts: list[ImageFiles], least: int, class_names: Path | None) -> None:
        """
        Args:
            parts: the training files, and perhaps those that are held out.
            least: the fewest files that a class needs in each part.
            class_names: file of names; see `read_class_names`.

        Raises:
            UserError: classes without enough files, other classes in the second part, labels that are no
                classes, or class names that do not fit. One error lists all of these.
        """
        self.parts, training = parts, parts[0]
        held_out = parts[1] if len(parts) > 1 else None
        self.left_out, self.doubtful = Tally(), Tally()
        problems: list[str] = []
        for part in self.parts:
            self.left_out.update(part.left_out)
            self.doubtful.update(part.doubtful)
            problems += part.problems or _small_classes(part, least)
        self.classes = training.classes
        if not problems and held_out is not None:
            problems += _differences(training, held_out) + _shared_folders(training, held_out)
        if class_names is not None and training.classes:
            self.classes, wrong = read_class_names(class_names, self.classes, training.numbered)
            problems += wrong
        if problems:
            reasons = self.left_out.lines()
            more = f"\nLeft out are:{listed(reasons)}" if reasons else ""
            raise UserError("\n".join(problems[:MAX_LINES]) + more)
        self.named = class_names is not None
        self.left_out_per_class = self._left_out_per_class()
        self.held_out_images = 0 if held_out is None else len(held_out.labels)
        self.labels = np.concatenate(
            [_lookup(part, training)[part.labels] for part in self.parts]
        ).astype(np.int64)

    def identity(self) -> str:
        names = self.classes if self.named else []
        return "\n".join([*(part.identity() for part in self.parts), *names])

    def _left_out_per_class(self) -> list[int]:
        counts: Counter[int] = Counter()
        for part in self.parts:
            labels = _lookup(part, self.parts[0])[: len(part.left_out_per_class)].tolist()
            counts.update(dict(zip(labels, part.left_out_per_class, strict=True)))
        return [counts[label] for label in range(len(self.classes))]


class FileSource(LabeledFiles):
    """Images of any size in files: those to train on, and perhaps others that are held out."""

    def __init__(
        self,
        training: ImageFiles,
        resolution: int,
        crop: Crop,
        held_out: ImageFiles | None = None,
        class_names: Path | None = None,
    ) -> None:
        """
        Args:
            held_out: None: `split` holds out a fraction of each class.
            class_names: file of names; see `read_class_names`.

        Raises:
            UserError: see `LabeledFiles`.
        """
        self.resolution, self.crop = resolution, crop
        parts = [training] if held_out is None else [training, held_out]
        super().__init__(parts, 3 - len(parts), class_names)

    def image(self, index: int) -> Pixels:
        """The center of the image, resized.

        Raises:
            DamagedImageError: the file cannot be read, or decoded as an image.
        """
        training, index = len(self.parts[0].labels), int(index)
        part = self.parts[index >= training]
        index -= training * (index >= training)
        return crop_to_square(part.decode(index, self.doubtful), self.resolution, self.crop)

    def split(self, held_out: float | None, seed: int) -> Split:
        """A fraction of each class is held out; None: the images of `dataset.held_out_path`."""
        if held_out is not None:
            return split_classes(self.labels, held_out, seed)
        rng, training = generator(seed, "split"), len(self.parts[0].labels)
        held = rng.permutation(np.arange(training, len(self.labels)))
        return rng.permutation(training), held


def files_digest(root: Path, names: Iterable[bytes]) -> str:
    """How many files, and a checksum of name, size and time of each: one request to the disk for each.

    Names are relative to `root`, which is not in the checksum: it may be moved with its files.
    """
    digest, count, above = sha256(), 0, os.fsencode(root)
    for name in names:
        stat = os.stat(os.path.join(above, name))
        digest.update(name + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        count += 1
    return f"{count} files {digest.hexdigest()}"


def below(root: Path, paths: Iterable[Path]) -> Iterator[bytes]:
    """The paths relative to `root`."""
    return (os.fsencode(os.path.relpath(path, root)) for path in paths)


def _small_classes(part: ImageFiles, least: int) -> list[str]:
    """An error for each class of fewer than `least` images."""
    counts = np.bincount(part.labels, minlength=len(part.classes))
    needed = "at least two images, one of them to hold out"
    if least == 1:
        needed = f"at least one {part.contents.one.split()[-1]}"
    way_out = (
        "Number the classes from 0 without gaps"
        if part.numbered
        else f"Add {part.contents.many} or remove the class"
    )
    return [
        f"{part.class_place(label)}: a class needs {needed}, and this has {counts[label]}. {way_out}."
        for label in np.flatnonzero(counts < least).tolist()
    ]


def _differences(training: ImageFiles, held_out: ImageFiles) -> list[str]:
    """An error that lists the classes of one part that the other lacks."""
    lines = [
        f"only in {part.key}: {printable(name)}"
        for part, other in ((training, held_out), (held_out, training))
        for name in sorted(set(part.classes) - set(other.classes), key=part.classes.index)
    ]
    if not lines:
        return []
    return [
        f"{held_out.key}: {held_out.place}: its classes are not those of {training.key}, "
        f"{training.place}. Rename, add or remove these:{listed(lines)}"
    ]


def _shared_folders(training: ImageFiles, held_out: ImageFiles) -> list[str]:
    """An error that lists the folders of which both parts would read the images, through links."""
    trained = dict(training.folders)
    lines = [f"{name} is {trained[key]}" for key, name in held_out.folders if key in trained]
    if not lines:
        return []
    return [
        f"{held_out.key}: {held_out.place}: images there are trained on as well, as folders are those of "
        f"{training.key}, {training.place}. Remove these links:{listed(map(printable, lines))}"
    ]


def _lookup(part: ImageFiles, training: ImageFiles) -> NDArray[np.int64]:
    """The label in `training` of each class of `part`."""
    labels = {name: label for label, name in enumerate(training.classes)}
    return np.array([labels[name] for name in part.classes], dtype=np.int64)
