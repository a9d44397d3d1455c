"""What the files of a source hold: images, or latents of images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2.data.decoding import IMAGE_ENDINGS
from edm2.data.tally import ending

if TYPE_CHECKING:
    from edm2.data.sources.files import ImageFiles


@dataclass(frozen=True)
class Contents:
    """
    Attributes:
        one, many: what a file is, and several are.
        endings: of the names of such files.
        source: the values of `dataset.source` that read them.
    """

    one: str
    many: str
    endings: frozenset[str]
    source: str

    def reason_against(self, name: str, otherwise: str) -> str:
        """Why a file of this name is left out: its kind, or else `otherwise`; empty: it is read."""
        kind = next((kind for kind in KINDS if ending(name) in kind.endings), None)
        if kind is not None:
            return "" if kind is self else kind.reason
        return OF_CAMERAS if ending(name) in CAMERA_ENDINGS else otherwise

    @property
    def reason(self) -> str:
        """Of such a file where another kind is expected."""
        return f"{self.one}, not {_other(self).one}"


OF_CAMERAS = "HEIC or raw, to be converted to JPEG or PNG first"
CAMERA_ENDINGS = {"heic", "heif", "arw", "cr2", "cr3", "dng", "nef", "orf", "raf", "rw2"}
IMAGES = Contents("an image", "images", frozenset(IMAGE_ENDINGS), "folder or zip")
LATENTS = Contents("a latent", "latents", frozenset({"npy"}), "latents")
KINDS = (IMAGES, LATENTS)


def check_contents(part: "ImageFiles", count: int) -> None:
    """Add an error to the problems of `part` if it has none of the files that it is read for, or latents
    together with images.

    Args:
        count: of the files that are read.
    """
    expected, other = part.contents, _other(part.contents)
    others = part.left_out.counts[other.reason]
    place = f"{part.key}: {part.place}"
    if not count:
        way_out = f" To read these, set dataset.source to {other.source}." * (others > 0)
        part.problems.append(
            f"{place}: contains no {expected.many}"
            + (f", and {others} {other.many}." if others else ".")
            + way_out
        )
    elif others and expected is LATENTS:
        part.problems.append(
            f"{place}: contains {count} latents together with {others} images, expected latents alone. "
            f"Remove the images, or set dataset.source to {IMAGES.source} to use only them."
        )


def _other(kind: Contents) -> Contents:
    return LATENTS if kind is IMAGES else IMAGES
