"""WebDataset shards: tars of images with labels."""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edm2.data.image_members import ImageMembers, reason_against, stem_of
from edm2.data.sources.files import ImageFiles, below, files_digest
from edm2.data.sources.labels import Labels
from edm2.data.tally import Tally, listed
from edm2.data.tar_members import member_name
from edm2.data.tars import Member, TarFiles
from edm2.runtime.limits import parse_json

MISSING = object()  # no label, or none that can be read


class TarImages(ImageFiles):
    """The images in some tars, with the label of their sample."""

    def __init__(
        self,
        paths: Sequence[Path],
        label_field: str | None,
        indices: Path,
        key: str = "dataset.path",
    ) -> None:
        """
        Args:
            label_field: field of {key}.json with the label; None: it is {key}.cls.
            indices: folder where the indices of the tars are stored, with the labels.

        Raises:
            UserError: a tar that is missing, truncated, corrupted or compressed.
        """
        super().__init__(key, f"{paths[0]}" + f" and {len(paths) - 1} more" * (len(paths) > 1))
        self.files = TarFiles(paths, partial(LabeledMembers, label_field), indices)
        for notes in self.files.notes:
            self.left_out.update(Tally.from_json(notes["left_out"]))
        labels = self._labels(named=False)
        if labels.problems:
            labels = self._labels(named=True)
        self.classes, self.labels = labels.finish()
        self.numbered = labels.numbered
        if not len(self.files):
            self.problems.append(f"{key}: {self.place}: no images.")
        wrong = [problem for notes in self.files.notes for problem in notes["problems"]]
        if wrong := wrong + labels.problems:
            form = (
                "{key}.cls" if label_field is None else f"the field {label_field} of {{key}}.json"
            )
            self.problems.append(
                f"{key}: {self.place}: expected the label of each image as {form}: a whole number from 0, "
                "or a text. Another field of {key}.json can be named by dataset.label_field. Correct "
                f"these:{listed(wrong)}"
            )
        self.files.notes.clear()  # not to be pickled

    def _labels(self, named: bool) -> Labels:
        """The labels of all images; with `named`, errors have the names of the images, which are read."""
        labels = Labels()
        for shard, (path, notes) in enumerate(zip(self.files.paths, self.files.notes, strict=True)):
            stored = json.loads(notes["labels"])
            names = self.files.names(shard) if named else [""] * len(stored)
            for label, name in zip(stored, names, strict=True):
                if label:  # others have no label, which is an error of the scan
                    labels.add(label[0], member_name(path, name))
        return labels

    def read(self, index: int) -> bytes:
        return self.files.read(index)

    def name(self, index: int) -> str:
        return self.files.name(index)

    def identity(self) -> str:
        folder = Path(os.path.commonpath([path.parent for path in self.files.paths]))
        return files_digest(folder, below(folder, self.files.paths))


class LabeledMembers:
    """Selects the images of a tar, as `ImageMembers` does, and reads their labels on the way.

    An image {stem}.jpg has the label of {stem}.cls, or else of the sample whose key it begins with:
    0001.photo.jpg that of 0001.cls.

    Attributes:
        images: counts everything that is neither image nor label.
        labels: of each image, in a list; empty lists for those without.
        problems: an error for each image without a label, and each label that cannot be read.
    """

    def __init__(self, label_field: str | None) -> None:
        self.field, self.ending = label_field, "cls" if label_field is None else "json"
        self.identity = f"images with labels in {self.ending}: {label_field}"
        self.images = ImageMembers()
        self.labels: list[list[object]] = []
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
                self.problems.append(f"{member_name(path, member.name)}: no label")
            label = labels.get(key, MISSING)
            self.labels.append([] if label is MISSING else [label])
            yield stem, extension, member
        for key in labels.keys() - used:
            self.images.left_out.add(
                "label without an image", member_name(path, f"{key}.{self.ending}")
            )

    def notes(self) -> dict[str, Any]:
        """What is left out, labels and problems. The labels are a text, which is read faster."""
        return {
            **self.images.notes(),
            "labels": json.dumps(self.labels, separators=(",", ":")),
            "problems": self.problems,
        }

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
                    name, key = member_name(path, member.name), stem_of(member.name)
                    label = self._label(content, name)
                    if key in labels and labels[key] != label:
                        self.problems.append(f"{name}: occurs twice, with different labels")
                    labels[key] = label

    def _label(self, content: bytes, name: str) -> object:
        try:
            if self.field is None:
                return _number_or_text(content.decode().strip())
            return parse_json(content)[self.field]
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
