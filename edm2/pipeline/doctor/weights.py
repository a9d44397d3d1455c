"""Published weights in the cache that projects share."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edm2.features.weights import RECORD, cache_folder
from edm2.pipeline.doctor.finding import Finding
from edm2.runtime.files import sha256
from edm2.runtime.temporaries import PATTERN, is_abandoned, remove

REFUSED = "Stages refuse it."
AGAIN = "Remove it: it is downloaded again."


def unfinished_downloads() -> Iterator[Finding]:
    """What ended processes have left of downloads."""
    for path in sorted(filter(is_abandoned, cache_folder().glob(PATTERN))):
        meaning = "It takes space; the next download starts from the beginning."
        yield Finding(
            path, "is the rest of a download", meaning, "Remove it.", partial(_remove, path)
        )


def weights() -> Iterator[Finding]:
    """Files that differ from what was published, or from their first use. All are read."""
    folder = cache_folder()
    for record in sorted(folder.glob(f"*{RECORD}")):
        path = record.with_name(record.name.removesuffix(RECORD))
        expected = record.read_text(encoding="utf-8", errors="replace").partition(" ")[0]
        if path.is_file() and sha256(path) != expected:
            problem = f"has another SHA-256 than at its first use, in {record.name}"
            remedy = f"{AGAIN} If the publisher has replaced it, remove {record.name} as well."
            yield Finding(path, problem, REFUSED, remedy)
    if any(folder.glob("*.pth")):
        yield from _published(folder)


def _published(folder: Path) -> Iterator[Finding]:
    from edm2.features.dinov2 import DINOV2_WEIGHTS  # these import packages for seconds
    from edm2.features.inception import INCEPTION_WEIGHTS
    from edm2.features.vgg import VGG16_WEIGHTS

    for published in (DINOV2_WEIGHTS, INCEPTION_WEIGHTS, VGG16_WEIGHTS):
        path = folder / published.file
        if path.is_file() and not sha256(path).startswith(published.sha256 or ""):
            yield Finding(path, f"has another SHA-256 than {published.url}", REFUSED, AGAIN)


def _remove(path: Path) -> str:
    remove(path)
    return "removed"
