"""The images that `vae.images` names: opened once, and checked before a training reads them."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edm2.data.damage import find_damaged, read_skip_list, warn_of_doubtful, write_skip_list
from edm2.data.images import ImageDataset
from edm2.data.order import image_order
from edm2.data.tally import Tally, listed, printable
from edm2.data.tars import INDICES
from edm2.data.web import WebImages
from edm2.params import Params, UserError
from edm2.params.checks import project_root
from edm2.params.dataset import Crop
from edm2.params.patterns import matching
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import gather_object, is_main_process, on_main_process, ranks
from edm2.runtime.files import describe
from edm2.vae.evaluation import evaluated_images

Indices = NDArray[np.int64]
KEYS = ("shards", "held_out")
GRID_IMAGES = 24  # the first held-out images, in the grid of reconstructions
SKIP_LIST = "damaged_images.txt"


def shards(params: Params) -> list[list[Path]]:
    """The training and held-out tars; empty if the prepared images are used."""
    patterns = (getattr(params.vae.images, key) for key in KEYS)
    return [matching(pattern, project_root()) for pattern in patterns if pattern is not None]


def open_web_images(params: Params) -> dict[str, WebImages]:
    """The training and held-out images, by KEYS; empty if the prepared images are used."""
    folder = project_root() / INDICES
    return {
        key: open_tars(paths, params, folder)
        for key, paths in zip(KEYS, shards(params), strict=False)
    }


def open_tars(paths: list[Path], params: Params, indices: Path) -> WebImages:
    """
    Args:
        indices: folder where indices of tars are stored.
    """
    dataset, skip = params.dataset, _skip_list(params)
    about, places = describe(paths), tuple(paths)
    return _open(about, places, dataset.resolution, dataset.crop, skip, indices)


@lru_cache(maxsize=len(KEYS))
def _open(
    description: str,
    paths: tuple[Path, ...],
    resolution: int,
    crop: Crop,
    skip: frozenset[str],
    indices: Path,
) -> WebImages:
    """Opened once, for the fingerprint and for training."""
    return WebImages(paths, resolution, crop, indices, skip)


def check_images(
    context: StageContext,
    groups: Mapping[str, WebImages],
    trained: bool,
    name: Callable[[str], str] = "vae.images.{}".format,
) -> dict[str, float]:
    """Print what is read; decode every image that the stage will read, once for each tar.

    Args:
        groups: by KEYS.
        trained: whether a VAE is trained; otherwise only held-out images are read.
        name: what messages call the images of a key.

    Returns:
        the number of skipped images of each group, if there are any.

    Raises:
        UserError: damaged images that runtime.skip_images does not list; names all of them.
    """
    if is_main_process():
        _print_summaries(context.params, groups, name)
    checked = on_main_process(context.state.read_notes).get("checked_tars", [])
    damaged: dict[str, str] = {}
    doubtful = Tally()
    for key, images in groups.items():
        read = trained or key == "held_out"
        indices = read_by_training(context.params, images, key) if read else np.arange(0)
        indices = _unchecked(images, indices, checked)
        ours = indices[ranks().rank :: ranks().world_size]
        for part in gather_object(find_damaged(images, ours, doubtful)):
            damaged |= part
    warn_of_doubtful(doubtful, "vae.images: ")
    on_main_process(lambda: _refuse(context, damaged))
    if is_main_process():
        context.state.note(
            checked_tars=sorted(
                {tar for images in groups.values() for tar in describe_tars(images.files.paths)}
            )
        )
    counts = {f"skipped_images/{k}": float(g.skipped.sum()) for k, g in groups.items()}
    return {key: count for key, count in counts.items() if count}


def read_by_training(params: Params, images: ImageDataset, key: str) -> Indices:
    """The indices of the images that are read at least once."""
    size, duration = len(images), params.vae.duration_nimg
    if key == "held_out":
        evaluated = evaluated_images(size, params.vae.evaluate_images)
        return np.union1d(np.asarray(evaluated), np.arange(min(GRID_IMAGES, size)))
    if duration >= size:
        return np.arange(size)
    order = image_order(images, params.runtime.reading, params.vae.batch, params.vae.seed)
    return np.sort(order.indices(range(duration)))


def _unchecked(images: WebImages, indices: Indices, checked: list[str]) -> Indices:
    """Those that are not skipped, in tars that were not checked as the main process sees them now."""
    tars = on_main_process(lambda: describe_tars(images.files.paths))
    open_tars = [tar not in checked for tar in tars]
    needed = np.repeat(open_tars, [len(k) for k in images.files.ranges()]) & ~images.skipped
    return indices[needed[indices]]


def describe_tars(paths: Iterable[Path]) -> list[str]:
    """A line with path, size and time for each."""
    return [printable(describe([path])) for path in paths]


def _refuse(context: StageContext, damaged: dict[str, str]) -> None:
    """Raise an error about damaged images; also list them, and those that are skipped already, in a file."""
    if not damaged:
        return
    path = context.state.folder / SKIP_LIST
    write_skip_list(path, {*damaged, *_skip_list(context.params)})
    raise UserError(
        f"vae.images: {len(damaged)} of the images to read cannot be decoded:"
        f"{listed(f'{name}: {text}' for name, text in sorted(damaged.items()))}\n"
        f"Replace them in their tars, or set runtime.skip_images to {_below_root(path)}, "
        "which lists them. In either case a training that is under way continues."
    )


def _below_root(path: Path) -> Path:
    """A path relative to the project root, if it is below it."""
    root = project_root()
    return path.relative_to(root) if root in path.parents else path


def _print_summaries(
    params: Params, groups: Mapping[str, WebImages], name: Callable[[str], str]
) -> None:
    for key, images in groups.items():
        skipped = int(images.skipped.sum())
        print(
            f"{name(key)}: {len(images) - skipped:,} images are read, "
            + f"{skipped:,} are skipped (runtime.skip_images), " * (skipped > 0)
            + f"{images.left_out.counts.total():,} other members are left out"
        )
        for text in images.left_out.lines():
            print(f"  left out: {text}")
    unknown = sorted(_skip_list(params).difference(*(images.matched for images in groups.values())))
    if unknown:
        print(
            f"warning: runtime.skip_images: lines that name no image of vae.images ({len(unknown):,}):"
            f"{listed(map(printable, unknown))}\n"
            "Expected lines as errors name images, such as web/00000.tar: 0001.jpg, in UTF-8."
        )


def _skip_list(params: Params) -> frozenset[str]:
    path = params.runtime.skip_images
    return frozenset() if path is None else read_skip_list(project_root() / path, project_root())
