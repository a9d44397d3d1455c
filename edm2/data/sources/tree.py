"""The image files below a folder."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from edm2.data.decoding import is_image
from edm2.data.sources.contents import IMAGES, Contents
from edm2.data.tally import FOREIGN, NOT_AN_IMAGE, Tally, is_foreign
from edm2.runtime.system_errors import is_of_machine

FolderId = tuple[int, int]  # of a folder, whatever leads to it


def image_files(
    folder: str,
    name: str,
    left_out: Tally,
    above: frozenset[FolderId] = frozenset(),
    entered: list[tuple[FolderId, str]] | None = None,
    known: Collection[str] = (),
    contents: Contents = IMAGES,
) -> Iterator[str]:
    """Every image file below `folder`, or every latent; links to files and folders are followed.

    A file is an image if its name has an image's ending, or its first bytes are those of an image.
    Files are listed, and not asked for their size or time: that is one request per folder, not per file.

    Args:
        name: of the folder; the names of its files start with it.
        left_out: receives every other file, and folders that are not entered, with the reason.
        above: those that contain this one (`folder_id`), to recognize links that lead back.
        entered: receives `folder_id` and name of every folder whose files are listed.
        known: names of files in `folder` itself that are neither images nor left out.
        contents: what is expected.
    """
    here = folder_id(folder)
    if here in above:
        left_out.add("link to a folder that contains it", name)
        return
    if entered is not None:
        entered.append((here, name))
    for entry in entries(folder, name, left_out):
        path = below(name, entry.name)
        if entry.is_dir():
            below_it = (entry.path, path, left_out, above | {here}, entered)
            yield from image_files(*below_it, contents=contents)
            continue
        reason = contents.reason_against(entry.name, NOT_AN_IMAGE)
        if not reason or (contents is IMAGES and is_image(Path(entry.path))):
            yield path
        elif entry.name not in known:
            left_out.add(reason, path)


def entries(folder: str, name: str, left_out: Tally) -> list[os.DirEntry[str]]:
    """The files and folders in `folder` that can be read; see `image_files` for the rest."""
    kept = []
    try:
        with os.scandir(folder) as scan:
            in_order = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if is_of_machine(error):
            raise
        left_out.add(f"folder that cannot be opened ({error.strerror})", name or folder)
        return []
    for entry in in_order:
        reason = _reason_against(entry)
        if reason:
            left_out.add(reason, below(name, entry.name))
        else:
            kept.append(entry)
    return kept


def folder_id(folder: str | Path) -> FolderId:
    """What a folder and links to it have in common."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _reason_against(entry: os.DirEntry[str]) -> str:
    if is_foreign(entry.name):
        return FOREIGN
    try:
        if entry.is_file() or entry.is_dir():  # asks the disk about links only
            return ""
        entry.stat()
    except FileNotFoundError:
        return "link to a file that does not exist"
    except OSError as error:
        if is_of_machine(error):
            raise
        return f"file or link that cannot be opened ({error.strerror})"
    return "neither file nor folder"
