"""Networks that EDM2's authors published, imported as snapshots."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.published import convert_names, infer_denoiser
from edm2.ema.index import write_index
from edm2.ema.pickles import read_published
from edm2.ema.snapshot import Snapshot, write_snapshot
from edm2.ema.store import SnapshotStore, check_headers
from edm2.params import UserError
from edm2.params.checks import project_root
from edm2.params.diffusion import Diffusion
from edm2.params.sizes import SIZES
from edm2.runtime.progress import track

NAME = re.compile(r"(.*)-(\d+)-(0\.\d+)\.pkl")  # network, time in thousands of images, EMA length
TIME_STEP = 2**20  # images; the authors' snapshots are taken at multiples of it


def published_files(folder: str | None) -> list[Path]:
    """The pickles in `folder`, which is relative to the project root; none if it is None."""
    return sorted((project_root() / folder).glob("*.pkl")) if folder else []


def describe_published(folder: str | None) -> str:
    """Names and sizes of the pickles in `folder`."""
    return "; ".join(f"{path.name} {path.stat().st_size}" for path in published_files(folder))


def import_published(paths: Sequence[Path], folder: Path, diffusion: Diffusion) -> None:
    """Write the raw networks of pickles into a store, one snapshot each.

    Time and EMA length are read from the file names, like edm2-img512-s-2147483-0.130.pkl. Networks
    of time 0 are skipped, with a note.

    Raises:
        UserError: there are no pickles; a file name has no time or length; a file cannot be read
            safely, or holds another network than params describe.
    """
    if not paths:
        raise UserError(
            "ema.path or guidance.path: no published networks (*.pkl) in this folder. Set it to a "
            "folder of them, relative to the project root."
        )
    channels = SIZES[diffusion.size].channels if diffusion.size else diffusion.channels
    for path in track(paths, "read published networks", len(paths), "file"):
        snapshot = identify_published(path)
        if snapshot.nimg == 0:
            print(f"note: {path}: skipped: at time 0 there is no training to average.")
            continue
        denoiser, tensors = read_raw_network(path)
        if denoiser.shape.channels != channels:
            raise UserError(
                f"{path}: a network of {denoiser.shape.channels} channels, expected {channels} "
                "(diffusion.size or diffusion.channels)."
            )
        write_snapshot(folder, snapshot, tensors, buffer_names(denoiser))
    store = SnapshotStore(folder)
    check_headers(store)
    write_index(store)


def identify_published(path: Path) -> Snapshot:
    """Time and EMA length of a pickle, from its name.

    Raises:
        UserError: the name does not have them.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path}: expected a name that ends in training time (thousands of images) and EMA "
            "length, like edm2-img512-s-2147483-0.130.pkl."
        )
    return Snapshot.power(time_in_images(int(match[2])), float(match[3]))


def read_raw_network(path: Path) -> tuple[Denoiser, dict[str, torch.Tensor]]:
    """The denoiser of a pickle, on the meta device, and its raw network's tensors under our names.

    Raises:
        UserError: the file cannot be read safely, or holds another network.
    """
    published = read_published(path)
    denoiser = infer_denoiser(published.tensors, published.arguments, path)
    tensors = convert_names(published.tensors, denoiser)
    prefix = "unet."
    return denoiser, {
        name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
    }


def buffer_names(denoiser: Denoiser) -> list[str]:
    """Tensors of the raw network that are not averaged."""
    return [name for name, _ in denoiser.unet.named_buffers()]


def time_in_images(thousands: int) -> int:
    """The time that a file name states in whole thousands of images, rounded down.

    The authors' times are multiples of `TIME_STEP`, so that 2147483 stands for 2,147,483,648. A thousand
    without such a multiple is taken as it is.
    """
    nimg = -(-thousands * 1000 // TIME_STEP) * TIME_STEP  # the first multiple from there on
    return nimg if nimg // 1000 == thousands else thousands * 1000
