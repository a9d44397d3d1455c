"""Which members of a tar are images."""

import tarfile
from collections.abc import Iterable, Iterator, Set
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from edm2.data.decoding import IMAGE_ENDINGS
from edm2.data.shards import Member
from edm2.data.tally import FOREIGN, NOT_AN_IMAGE, Tally, ending, is_foreign, printable

OTHER_FIELD = "another field of a sample"


class ImageMembers:
    """Selects the images of tars, and counts everything else.

    An image is a plain file whose name has an image's ending. {key}.mask.png is another field of
    sample {key} if the tar has an image {key}.jpg, or if the field is a word without digits;
    22.05.jpg is an image.

    Attributes:
        left_out: the members that are no images, by reason.
        skipped: for each image, whether it is in `skip`.
        matched: the entries of `skip` that are images.
        identities: for each tar its path, the number of images in it, and a checksum of their names.
    """

    def __init__(self, skip: Set[str]) -> None:
        """`skip` has lines as `line` makes them."""
        self.skip = skip
        self.left_out = Tally()
        self.skipped: list[bool] = []
        self.matched: set[str] = set()
        self.identities: list[str] = []

    def __call__(self, path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Member]:
        """The images of one tar."""
        candidates = list(self._candidates(path, members))
        stems = {_stem(member.name) for member in candidates}
        names, count = sha256(), 0
        for member in candidates:
            if _is_other_field(_stem(member.name), stems):
                self.left_out.add(OTHER_FIELD, line(path, member.name))
                continue
            names.update(member.name.encode("utf-8", "surrogateescape") + b"\0")
            count += 1
            name = line(path, member.name)
            self.skipped.append(name in self.skip)
            self.matched |= {name} & self.skip
            yield _stem(member.name), ending(member.name), member
        self.identities.append(f"{path} {count} {names.hexdigest()}")

    def _candidates(
        self, path: Path, members: Iterable[tarfile.TarInfo]
    ) -> Iterator[tarfile.TarInfo]:
        for member in members:
            reason = _reason_against(member)
            if reason:
                self.left_out.add(reason, line(path, member.name))
            else:
                yield member


def line(path: Path, member: str) -> str:
    """A member of a tar in messages and in lists of images."""
    return printable(f"{path}: {member}")


def _reason_against(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    if member.islnk() or member.issym():
        return "link to another file"
    if not member.isreg():
        return "neither file nor folder"
    if member.issparse():
        return "sparse file"
    if any(is_foreign(part) for part in member.name.split("/") if part not in (".", "..")):
        return FOREIGN
    return "" if ending(member.name) in IMAGE_ENDINGS else NOT_AN_IMAGE


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _is_other_field(stem: str, stems: Set[str]) -> bool:
    """Whether an image belongs to the sample of another one, like the stem 0001.mask to 0001."""
    folder, slash, base = stem.rpartition("/")
    *first, last = base.split(".")
    keys = (folder + slash + key for key in accumulate(first, "{}.{}".format))
    return bool(first) and (last.isalpha() or any(key in stems for key in keys))
