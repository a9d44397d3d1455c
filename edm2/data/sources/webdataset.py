"""WebDataset shards: tars of images with labels."""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edm2.data.image_members import ImageMembers, line, reason_against, stem_of
from edm2.data.shards import Member, TarFiles
from edm2.data.sources.files import ImageFiles
from edm2.data.sources.labels import Labels
from edm2.data.tally import listed
from edm2.runtime.files import describe

REMEDY = "Shards must be uncompressed tars. Download or write this one again."
MISSING = object()  # no label, or none that can be read


class TarImages(ImageFiles):
    """The images in some tars, with the label of their sample."""

    def __init__(
        self, paths: Sequence[Path], label_field: str | None, key: str = "dataset.path"
    ) -> None:
        """
        Args:
            label_field: field of {key}.json with the label; None: it is {key}.cls.

        Raises:
            UserError: a tar that is missing, truncated, corrupted or compressed.
        """
        super().__init__(key, f"{paths[0]}" + f" and {len(paths) - 1} more" * (len(paths) > 1))
        members = LabeledMembers(label_field)
        self.files = TarFiles(paths, members, REMEDY)
        self.left_out = members.images.left_out
        self.classes, self.labels = members.labels.finish()
        self.numbered = members.labels.numbered
        if not len(self.files):
            self.problems.append(f"{key}: {self.place}: no images.")
        if wrong := members.problems + members.labels.problems:
            form = (
                "{key}.cls" if label_field is None else f"the field {label_field} of {{key}}.json"
            )
            self.problems.append(
                f"{key}: {self.place}: expected the label of each image as {form}: a whole number from 0, "
                "or a text. Another field of {key}.json can be named by dataset.label_field. Correct "
                f"these:{listed(wrong)}"
            )

    def read(self, index: int) -> bytes:
        return self.files.read(index)

    def name(self, index: int) -> str:
        return line(self.files.tar(index), self.files.name(index))

    def identity(self) -> str:
        return describe(self.files.paths)


class LabeledMembers:
    """Selects the images of tars, as `ImageMembers` does, and reads their labels on the way.

    An image {stem}.jpg has the label of {stem}.cls, or else of the sample whose key it begins with:
    0001.photo.jpg that of 0001.cls.

    Attributes:
        images: counts everything that is neither image nor label.
        labels: of the images.
        problems: an error for each image without a label, and each label that cannot be read.
    """

    def __init__(self, label_field: str | None) -> None:
        self.field, self.ending = label_field, "cls" if label_field is None else "json"
        self.images, self.labels = ImageMembers(frozenset()), Labels()
        self.problems: list[str] = []

    def __call__(self, path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Member]:
        """The images of one tar."""
        labels: dict[str, object] = {}
        used = set()
        for stem, extension, member in self.images(
            path, self._without_labels(path, members, labels)
        ):
            key = _sample(stem, labels)
            used.add(key)
            if key not in labels:
                self.problems.append(f"{line(path, member.name)}: no label")
            if (label := labels.get(key, MISSING)) is not MISSING:
                self.labels.add(label, line(path, member.name))
            yield stem, extension, member
        for key in labels.keys() - used:
            self.images.left_out.add("label without an image", line(path, f"{key}.{self.ending}"))

    def _without_labels(
        self, path: Path, members: Iterable[tarfile.TarInfo], labels: dict[str, object]
    ) -> Iterator[tarfile.TarInfo]:
        """All members but those with labels, which go to `labels`."""
        with path.open("rb") as file:
            for member in members:
                if reason_against(member, {self.ending}):
                    yield member
                else:
                    file.seek(member.offset_data)
                    content = file.read(member.size)
                    labels[stem_of(member.name)] = self._label(content, line(path, member.name))

    def _label(self, content: bytes, name: str) -> object:
        try:
            if self.field is None:
                return _number_or_text(content.decode().strip())
            return json.loads(content)[self.field]
        except KeyError:
            self.problems.append(f"{name}: no field {self.field}")
        except (ValueError, TypeError) as error:
            self.problems.append(f"{name}: {error}")
        return MISSING


def _sample(stem: str, labels: dict[str, object]) -> str:
    """The longest key of `labels` that `stem` begins with, by whole fields; or `stem`."""
    key = stem
    while key not in labels:
        folder, slash, base = key.rpartition("/")
        shorter, dot, _ = base.rpartition(".")
        if not dot:
            return stem
        key = folder + slash + shorter
    return key


def _number_or_text(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        return text
