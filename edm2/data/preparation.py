"""From a source to image shards."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edm2.data.damage import refuse_damaged
from edm2.data.decoding import DamagedImageError
from edm2.data.images import image_sample
from edm2.data.shards import is_written, write_shard
from edm2.data.sources import LabeledSource, Source
from edm2.data.splits import shard_ranges
from edm2.data.tally import Tally
from edm2.params.dataset import Dataset
from edm2.runtime.distributed import gather_object, ranks
from edm2.runtime.progress import Progress
from edm2.runtime.workers import cores, in_workers

ShardPlan = tuple[Path, NDArray[np.int64]]  # the file, and the indices of its images in the source
SMALL_PIXELS = 2048 * 64**2  # fewer are prepared without worker processes
MIN_RESOLUTION = 64  # smaller images count as such ones, because they have to be decoded as well


class IncompleteShard(Exception):
    """A shard that lacks damaged images; it is not written."""


@dataclass
class ShardProblems:
    """What is wrong with the images of a shard: messages about damaged ones, names of doubtful ones."""

    damaged: list[str] = field(default_factory=list)
    doubtful: Tally = field(default_factory=Tally)


def prepare_images(
    source: Source, folder: Path, dataset: Dataset, seed: int, workers: int | None
) -> dict[str, Any]:
    """Write `train-*.tar` and `held_out-*.tar`; shards that already exist are kept.

    Each rank writes some of the shards, in worker processes; any number of ranks and workers gives the
    same bytes. All images are decoded even if some are damaged, so that one run finds all of these.

    Args:
        source: its `doubtful` receives those of all processes, on the main one.
        workers: processes of each rank; see `runtime.workers`.

    Returns:
        metadata for the manifest: source, resolution, crop, classes, images per split and class.

    Raises:
        UserError: damaged images; lists all of them. Their shards are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = source.split(dataset.held_out, seed)
    splits = {"train": train, "held_out": held_out}
    shards = [
        (folder / name, indices[part.start : part.stop])
        for split, indices in splits.items()
        for name, part in shard_ranges(split, len(indices), dataset.shard_images).items()
    ]
    problems: dict[Path, ShardProblems] = {}
    try:
        start = partial(_ShardWriter, source)
        for path, of_shard in write_shards(start, shards, dataset.resolution, workers, "prepare"):
            problems[path] = of_shard
        damaged = [message for of_shard in problems.values() for message in of_shard.damaged]
        for of_rank in gather_object(problems):
            problems |= of_rank
    finally:
        _add_doubtful(source, (problems[path] for path, _ in shards if path in problems))
    refuse_damaged(damaged, len(train) + len(held_out))
    return describe_images(source, dataset, splits)


def describe_images(
    source: LabeledSource, dataset: Dataset, splits: Mapping[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """Metadata for the manifest."""
    return {
        "source": dataset.source,
        "resolution": dataset.resolution,
        "crop": dataset.crop,
        "classes": list(source.classes),
        "images": {split: len(indices) for split, indices in splits.items()},
        "images_per_class": {
            split: np.bincount(source.labels[indices], minlength=len(source.classes)).tolist()
            for split, indices in splits.items()
        },
    }


def write_shards(
    start: Callable[[], Callable[[ShardPlan], ShardProblems]],
    shards: Sequence[ShardPlan],
    resolution: int,
    workers: int | None,
    title: str,
) -> Iterator[tuple[Path, ShardProblems]]:
    """Write this rank's shards that do not exist; yield the file of each that was tried.

    Args:
        start: called in each process; returns what writes a shard.
        resolution: of the images, or latents, which says whether worker processes pay.
        workers: processes of this rank; see `runtime.workers`.
        title: what is done, for progress.
    """
    share = shards[ranks().rank :: ranks().world_size]
    missing = [(path, indices) for path, indices in share if not is_written(path)]
    total, left = (sum(len(indices) for _, indices in some) for some in (share, missing))
    if workers is None:
        small = left * max(resolution, MIN_RESOLUTION) ** 2 < SMALL_PIXELS
        workers = 0 if small or cores() == 1 else cores()
    progress = Progress(title, total, "img", total - left)
    try:
        for number, problems in in_workers(start, missing, workers):
            path, indices = missing[number]
            yield path, problems
            progress.advance(len(indices))
    finally:
        progress.close()


class _ShardWriter:
    """Writes shards in one process, with its own copy of the source: `doubtful` is that of one shard, and
    open files that the source leaves out of its copies are not shared.
    """

    def __init__(self, source: Source) -> None:
        self.source: Any = copy(source)

    def __call__(self, shard: ShardPlan) -> ShardProblems:
        path, indices = shard
        problems = ShardProblems()
        if hasattr(self.source, "doubtful"):
            self.source.doubtful = problems.doubtful
        with suppress(IncompleteShard):
            write_shard(path, self._samples(indices, problems.damaged))
        return problems

    def _samples(
        self, indices: NDArray[np.int64], damaged: list[str]
    ) -> Iterator[dict[str, str | bytes]]:
        """The samples of a shard.

        Raises:
            IncompleteShard: after the last image, if there are damaged ones.
        """
        for index in indices:
            try:
                image = self.source.image(index)
            except DamagedImageError as error:
                damaged.append(str(error))
            else:
                yield image_sample(f"{index:08d}", image, int(self.source.labels[index]))
        if damaged:
            raise IncompleteShard


def _add_doubtful(source: Source, problems: Iterable[ShardProblems]) -> None:
    doubtful: Tally = getattr(source, "doubtful", Tally())
    for of_shard in problems:
        doubtful.update(of_shard.doubtful)
