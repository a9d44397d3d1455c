"""A zip archive of images, with labels in dataset.json or a folder per class."""

import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edm2.data.decoding import ImageDecodeError
from edm2.data.sources.contents import LATENTS, check_contents
from edm2.data.sources.files import ImageFiles, files_digest
from edm2.data.sources.folder import NO_CLASS, SPLITS
from edm2.data.sources.label_file import (
    LABELS,
    label_images,
    note_numbered_folders,
    read_labels,
)
from edm2.data.sources.labels import Labels
from edm2.data.tally import EXAMPLES, FOREIGN, OTHER_ENDING, is_foreign, listed, printable
from edm2.params import UserError
from edm2.runtime.limits import reason_against, require_file, require_unpacked

HEADER = struct.Struct("<6xH18x2H")  # of a member: flags, length of its name and of what follows
ENCRYPTED, UTF8 = 0x1, 0x800  # flags
# what `zipfile` raises for damaged archives: names that are not UTF-8, versions and compression that it
# does not know, members that are encrypted or end too early
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError)
ENTRY_DTYPE = np.dtype(
    [("header", "i8"), ("stored", "i8"), ("size", "i8"), ("crc", "u4"), ("deflated", "?")]
)


class ZipImages(ImageFiles):
    """The images in a zip, without unpacking it.

    The archive's list is read once, by `zipfile`. It has a Python object per member there, so only
    29 bytes of each are kept for reading.
    """

    def __init__(self, path: Path, key: str = "dataset.path") -> None:
        """
        Raises:
            UserError: not a zip, or one with a dataset.json that is not as EDM and StyleGAN write it.
        """
        super().__init__(key, str(path))
        self.path = path
        self._file: BinaryIO | None = None
        with _opened(path, key) as archive:
            images = self._labeled(archive)
        self.members = np.array(
            [
                (m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type != 0)
                for m in images
            ],
            ENTRY_DTYPE,
        )

    def read(self, index: int) -> bytes:
        member = self.members[index]
        _, name, extra = HEADER.unpack(self._read_at(member["header"], HEADER.size))
        content = self._read_at(member["header"] + HEADER.size + name + extra, member["stored"])
        if member["deflated"]:
            try:
                size = int(member["size"]) + 1  # more would be none of what was packed
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
            except zlib.error as error:
                raise ImageDecodeError(f"not compressed as zip says: {error}") from None
        if len(content) != member["size"] or zlib.crc32(content) != member["crc"]:
            raise ImageDecodeError("not the bytes that were packed: size or checksum differs")
        return content

    def name(self, index: int) -> str:
        """The archive and the member, whose name is not kept in memory but read again."""
        header = self.members["header"][index]
        try:
            flags, length, _ = HEADER.unpack(self._read_at(header, HEADER.size))
            content = self._read_at(header + HEADER.size, length)
        except (OSError, ImageDecodeError):
            return printable(f"{self.path}: the member at byte {header}")
        member = content.decode("utf-8" if flags & UTF8 else "cp437", "replace")
        return printable(f"{self.path}: {member}")

    def identity(self) -> str:
        return files_digest(self.path.parent, [os.fsencode(self.path.name)])

    def _read_at(self, offset: int, size: int) -> bytes:
        if self._file is None:  # once in each process
            self._file = self.path.open("rb", buffering=0)
        content = os.pread(self._file.fileno(), int(size), int(offset))
        if len(content) < size:
            raise ImageDecodeError("the zip ends before its data")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _labeled(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        """The members that are read; sets classes and labels."""
        labels = _labels_file(archive, self.key, self.path)
        images = self._images(archive)
        if labels is None:
            return self._label_by_folder(images)
        folder, by_name = labels
        label_images(self, (m.filename.removeprefix(folder) for m in images), by_name)
        return images

    def _images(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        """The members that are images; all others are counted."""
        images, unreadable = [], []
        for member in archive.filelist:
            reason = self._reason_against(member)
            if archive.NameToInfo[member.filename] is not member:
                reason = "replaced by a later member of the same name"
            if reason:
                self.left_out.add(reason, member.filename)
            elif member.flag_bits & ENCRYPTED or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                unreadable.append(printable(member.filename))
            elif not _is_labels_file(member.filename):
                images.append(member)
        if unreadable:
            self.problems.append(
                f"{self.key}: {self.path}: {len(unreadable)} {self.contents.many} are encrypted, or "
                f"compressed by other means than deflate. Pack them again, best without compression:"
                f"{listed(unreadable)}"
            )
        check_contents(self, len(images) + len(unreadable))
        return images

    def _reason_against(self, member: zipfile.ZipInfo) -> str:
        if member.is_dir():
            return "folder"
        if any(is_foreign(part) for part in member.filename.split("/") if part not in (".", "..")):
            return FOREIGN
        if _is_labels_file(member.filename):
            return ""
        too_large = reason_against(member.filename, member.file_size, member.compress_size)
        return too_large or self.contents.reason_against(member.filename, OTHER_ENDING)

    def _label_by_folder(self, images: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        """The images in folders: classes are the first level at which there are several."""
        if self.contents is LATENTS and images:
            self.problems.append(
                f"{self.key}: {self.path}: has no {LABELS}, which is expected to have the labels of "
                'its latents. Add it, with {"labels": null} for one class.'
            )
        folders = [tuple(m.filename.split("/")[:-1]) for m in images]
        level = _class_level(folders)
        labels, kept = Labels(), []
        for parts, member in zip(folders, images, strict=True):
            if len(parts) > level:
                labels.add(parts[level], member.filename)
                kept.append(member)
            else:
                self.left_out.add(NO_CLASS, member.filename)
        self.classes, self.labels = labels.finish()
        self.problems += labels.problems
        note_numbered_folders(self)
        splits = [name for name in self.classes if SPLITS.fullmatch(name)]
        if len(splits) > 1:
            self.problems.append(
                f"{self.key}: {self.path}: its folders {', '.join(splits)} are splits, expected one "
                "folder per class. Pack each split into a zip of its own: dataset.path is the one to "
                "train on, dataset.held_out_path another."
            )
        elif images and not kept:
            self.problems.append(
                f"{self.key}: {self.path}: contains no folders, and {len(images)} images. Put those of "
                f'each class into a folder, or add {LABELS} with {{"labels": null}} for one class.'
            )
        return kept


def _class_level(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders, one in the other, are around all images without being a class."""
    depth = 0
    while (
        folders
        and len({parts[: depth + 1] for parts in folders}) == 1
        and all(len(parts) > depth + 1 for parts in folders)
    ):
        depth += 1
    return depth


def _opened(path: Path, key: str) -> zipfile.ZipFile:
    try:
        require_file(path)
        return zipfile.ZipFile(path)
    except PermissionError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"{key}: {path}: not a readable zip ({error}). Download or pack it again."
        ) from None


def _labels_file(
    archive: zipfile.ZipFile, key: str, path: Path
) -> tuple[str, dict[str, Any] | None] | None:
    """The folder of dataset.json with its labels by name, or with None for null; None without it."""
    files = [name for name in archive.NameToInfo if _is_labels_file(name)]
    if not files:
        return None

    def read() -> bytes:
        if len(files) > 1:
            raise ValueError(f"occurs {len(files)} times: {', '.join(files[:EXAMPLES])}")
        require_unpacked(archive.getinfo(files[0]))
        return archive.read(files[0])

    by_name = read_labels(read, key, str(path), UNREADABLE)
    return files[0].removesuffix(LABELS), by_name


def _is_labels_file(name: str) -> bool:
    return name.rpartition("/")[2] == LABELS
