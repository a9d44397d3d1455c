"""Damaged images: found all at once; in tars, skipped if a list names them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edm2.data.decoding import FEW_BITS, ImageDecodeError
from edm2.data.images import RUN_AGAIN, THREADS
from edm2.data.tally import Tally, listed
from edm2.data.web import WebImages
from edm2.params import UserError
from edm2.runtime.distributed import gather_object, is_main_process, on_main_process
from edm2.runtime.files import write_text
from edm2.runtime.progress import Progress

NOT_DECODED = "images cannot be decoded"
CHUNK = 256  # images that wait for a thread


def refuse_damaged(
    messages: Iterable[str], images: int, after_repair: str = RUN_AGAIN, what: str = NOT_DECODED
) -> None:
    """Raise an error on all ranks if one of them has damaged images, or latents.

    Args:
        messages: about the damaged images of this rank.
        images: how many were tried by all ranks.
        after_repair: what to do when they were replaced.
        what: what they are, and what is wrong with them.

    Raises:
        UserError: lists the damaged images of all ranks.
    """
    damaged = sorted(text for texts in gather_object(list(messages)) for text in texts)

    def refuse() -> None:
        if damaged:
            raise UserError(
                f"{len(damaged)} of {images} {what}. Replace or remove these, then "
                f"{after_repair}:{listed(damaged)}"
            )

    on_main_process(refuse)


def warn_of_doubtful(doubtful: Tally, place: str = "") -> None:
    """Print what all ranks have read and may not be meant as it is.

    Args:
        place: where it is from, in front of each line.
    """
    total = Tally()
    for part in gather_object(doubtful):
        total.update(part)
    if is_main_process():
        for line in total.lines():
            print(f"warning: {place}{line}")


def read_skip_list(path: Path, root: Path) -> frozenset[str]:
    """The images in a list, one a line: `{tar}: {member}`, as errors name them.

    Args:
        root: where relative paths of tars start.
    """
    text = path.read_text(encoding="utf-8-sig", errors="backslashreplace")
    lines = (line.removeprefix("./") for line in text.splitlines() if line.strip())
    return frozenset(line if line.startswith("/") else f"{root}/{line}" for line in lines)


def write_skip_list(path: Path, names: Iterable[str]) -> None:
    write_text(path, "".join(f"{name}\n" for name in sorted(names)))


def find_damaged(
    images: WebImages, indices: Sequence[int] | NDArray[np.int64], doubtful: Tally
) -> dict[str, str]:
    """Decode the images at `indices`, in threads.

    Args:
        doubtful: receives the images that use few of their bits.

    Returns:
        what is wrong with each damaged image, by its name.
    """

    def problem(index: int) -> str:
        try:
            return FEW_BITS if FEW_BITS in images.decode(index).info else ""
        except ImageDecodeError as error:
            return str(error)

    damaged: dict[str, str] = {}
    progress = Progress("check images", len(indices), "img")
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(indices), CHUNK):
            chunk = [int(index) for index in indices[start : start + CHUNK]]
            for index, text in zip(chunk, pool.map(problem, chunk), strict=True):
                if text == FEW_BITS:
                    doubtful.add(text, images.name(index))
                elif text:
                    damaged[images.name(index)] = text
            progress.advance(len(chunk))
    progress.close()
    return damaged
