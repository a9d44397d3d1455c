"""Labels in dataset.json, as the tools of EDM and StyleGAN write it."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from edm2.data.sources.files import ImageFiles
from edm2.data.sources.labels import Labels
from edm2.data.tally import listed, printable
from edm2.params import UserError
from edm2.runtime.limits import parse_json, shown

LABELS = "dataset.json"
NUMBERED = re.compile(r"\d{5}")  # names of folders in which those tools put a thousand images each


def read_labels(
    read: Callable[[], bytes], key: str, place: str, unreadable: tuple[type[Exception], ...] = ()
) -> dict[str, Any] | None:
    """Labels by the name of the image; None: there are none (null).

    Args:
        read: returns the content of dataset.json.
        unreadable: what `read` raises for content that is damaged, besides ValueError.

    Raises:
        UserError: not as EDM and StyleGAN write it.
    """
    malformed: tuple[type[Exception], ...] = (KeyError, TypeError, ValueError, *unreadable)
    try:
        rows = parse_json(read())["labels"]
        labels = None if rows is None else {str(name): label for name, label in rows}
        if rows is not None and len(rows) > len(labels or {}):
            raise ValueError(f"{len(rows) - len(labels or {})} names occur twice")
    except malformed as error:
        raise UserError(
            f"{key}: {place}: {LABELS}: {type(error).__name__}: {shown(str(error))}. Expected "
            '{"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}. Write it again with a '
            "tool of EDM or StyleGAN."
        ) from None
    return labels


def note_numbered_folders(part: ImageFiles) -> None:
    """Count, as doubtful, classes named like folders of those tools, which have no dataset.json with them."""
    if part.classes and all(NUMBERED.fullmatch(name) for name in part.classes):
        for name in part.classes:
            part.doubtful.add(
                f"class named like a folder of a thousand images, 00000; there is no {LABELS}", name
            )


def label_images(part: ImageFiles, names: Iterable[str], by_name: dict[str, Any] | None) -> None:
    """Set classes and labels of a part; None is a single class.

    Args:
        names: of its images in their order, relative to the folder of dataset.json. Without any, nothing is
            said of labels.
    """
    if by_name is None:
        part.doubtful.add("has no labels (null): all images are one class", LABELS)
        part.classes = ["all"]
        part.labels = np.zeros(sum(1 for _ in names), dtype=np.int64)
        return
    labels, lacking, unused = Labels(), [], {*by_name}
    for name in names:
        if name in by_name:
            labels.add(by_name[name], name)
            unused.discard(name)
        else:
            lacking.append(f"without a label: {printable(name)}")
    part.classes, part.labels = labels.finish()
    if not len(part.labels):
        return
    lacking += [f"label without {part.contents.one}: {printable(name)}" for name in unused]
    part.numbered = labels.numbered
    if lacking or labels.problems:
        part.problems.append(
            f"{part.key}: {part.place}: {LABELS}: expected a whole number from 0 for each image. "
            f"Write it again with a tool of EDM or StyleGAN, or correct these:"
            f"{listed(sorted(lacking) + labels.problems)}"
        )
