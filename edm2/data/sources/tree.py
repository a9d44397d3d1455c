"""The image files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from edm2.data.decoding import IMAGE_ENDINGS, is_image
from edm2.data.tally import FOREIGN, NOT_AN_IMAGE, Tally, ending, is_foreign


def image_files(
    folder: Path, root: Path, left_out: Tally, above: frozenset[tuple[int, int]]
) -> Iterator[Path]:
    """Every image file below `folder`; links to files and folders are followed.

    A file is an image if its name has an image's ending, or its first bytes are those of an image.

    Args:
        root: names in `left_out` are relative to it.
        left_out: receives every other file, and folders that are not entered, with the reason.
        above: identities of the folders that contain this one, to recognize links that lead back.
    """
    if identity(folder) in above:
        left_out.add("link to a folder that contains it", _name(folder, root))
        return
    for entry in entries(folder, root, left_out):
        path = Path(entry.path)
        if entry.is_dir():
            yield from image_files(path, root, left_out, above | {identity(folder)})
        elif ending(entry.name) in IMAGE_ENDINGS or is_image(path):
            yield path
        else:
            left_out.add(NOT_AN_IMAGE, _name(path, root))


def entries(folder: Path, root: Path, left_out: Tally) -> list[os.DirEntry[str]]:
    """The files and folders in `folder` that can be read; see `image_files` for the rest."""
    kept = []
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        left_out.add(f"folder that cannot be opened ({error.strerror})", _name(folder, root))
        return []
    for entry in found:
        reason = _reason_against(entry)
        if reason:
            left_out.add(reason, _name(Path(entry.path), root))
        else:
            kept.append(entry)
    return kept


def identity(folder: Path) -> tuple[int, int]:
    """What a folder and links to it have in common."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _reason_against(entry: os.DirEntry[str]) -> str:
    if is_foreign(entry.name):
        return FOREIGN
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "link to a file that does not exist"
    except OSError as error:
        return f"file or link that cannot be opened ({error.strerror})"
    return "" if S_ISREG(mode) or S_ISDIR(mode) else "neither file nor folder"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
