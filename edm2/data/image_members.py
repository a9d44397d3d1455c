"""Which members of a tar are images."""

import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

from edm2.data.decoding import IMAGE_ENDINGS
from edm2.data.tally import FOREIGN, OTHER_ENDING, Tally, ending, is_foreign
from edm2.data.tar_members import member_name
from edm2.data.tars import Member
from edm2.runtime import limits

OTHER_FIELD = "another field of a sample"


class ImageMembers:
    """Selects the images of a tar, and counts everything else; see `tars.Scan`.

    An image is a plain file whose name has an image's ending. Names may have dots, such as 22.05.jpg.
    But {key}.mask.png is another field of the sample {key} if the tar has an image {key}.jpg, and also
    if it has {key}.photo.png: which of two words is the image cannot be known.

    Attributes:
        left_out: the members that are no images, by reason.
    """

    identity = "images"

    def __init__(self) -> None:
        self.left_out = Tally()
        self._names = sha256()

    def __call__(self, path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Member]:
        """The images of one tar."""
        candidates = list(self._candidates(path, members))
        other_fields = _other_fields({stem_of(member.name) for member in candidates})
        for member in candidates:
            if stem_of(member.name) in other_fields:
                self.left_out.add(OTHER_FIELD, member_name(path, member.name))
                continue
            self._names.update(member.name.encode("utf-8", "surrogateescape") + b"\0")
            yield stem_of(member.name), ending(member.name), member

    def notes(self) -> dict[str, Any]:
        """A checksum of the images' names, and what is left out."""
        return {"names_sha256": self._names.hexdigest(), "left_out": self.left_out.as_json()}

    def _candidates(
        self, path: Path, members: Iterable[tarfile.TarInfo]
    ) -> Iterator[tarfile.TarInfo]:
        for member in members:
            reason = reason_against(member)
            if reason:
                self.left_out.add(reason, member_name(path, member.name))
            else:
                yield member


def reason_against(member: tarfile.TarInfo, endings: Set[str] = frozenset(IMAGE_ENDINGS)) -> str:
    """Why a member is no plain file with one of `endings`; empty if it is."""
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
    if reason := limits.reason_against(member.name, member.size, member.size):
        return reason
    return "" if ending(member.name) in endings else OTHER_ENDING


def stem_of(name: str) -> str:
    return name.rpartition(".")[0]


def _other_fields(stems: Set[str]) -> set[str]:
    """The stems that belong to the sample of another image, such as 0001.mask to 0001."""
    fields = {stem: _split(stem) for stem in stems}
    sharing = Counter(key for key, _ in fields.values())
    return {
        stem
        for stem, (key, field) in fields.items()
        if field and (_has_prefix_in(key, stems) or (field.isalpha() and sharing[key] > 1))
    }


def _split(stem: str) -> tuple[str, str]:
    """Key and last field: a.b/0001.mask is a.b/0001 and mask, a.b/0001 has no field."""
    folder, slash, base = stem.rpartition("/")
    key, _, field = base.rpartition(".")
    return folder + slash + (key or field), field if key else ""


def _has_prefix_in(key: str, stems: Set[str]) -> bool:
    """Whether a.b/22, a.b/22.05 or a.b/22.05.x is among the stems, for the key a.b/22.05.x."""
    field = key
    while key not in stems and field:
        key, field = _split(key)
    return key in stems
