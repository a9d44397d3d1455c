"""From a source to image shards."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edm2.data.decoding import DamagedImageError
from edm2.data.images import image_sample
from edm2.data.shards import write_shard
from edm2.data.sources import Source
from edm2.data.tally import listed
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.runtime.progress import track


class IncompleteShard(Exception):
    """A shard that lacks damaged images."""


def prepare_images(source: Source, folder: Path, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Write `train-*.tar` and `held_out-*.tar`; shards that already exist are kept.

    All images are decoded even if some are damaged, so that one run finds all of these.

    Returns:
        metadata for the manifest: source, resolution, crop, classes, images per split and class.

    Raises:
        UserError: damaged images; lists all of them. Their shards are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = source.split(dataset.held_out, seed)
    splits = {"train": train, "held_out": held_out}
    shards = [
        (folder / f"{split}-{k:06d}.tar", indices[start : start + dataset.shard_images])
        for split, indices in splits.items()
        for k, start in enumerate(range(0, len(indices), dataset.shard_images))
    ]
    damaged: list[str] = []
    for path, indices in track(shards, "prepare", len(shards), "shard"):
        if not path.exists():
            with suppress(IncompleteShard):
                write_shard(path, _samples(source, indices, damaged))
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(train) + len(held_out)} images cannot be decoded. Replace or remove "
            f"these, then run this again:"
            f"{listed(sorted(damaged))}"
        )
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


def _samples(
    source: Source, indices: Iterable[int], damaged: list[str]
) -> Iterator[dict[str, str | bytes]]:
    """The samples of a shard. Messages about damaged images are appended to `damaged`.

    Raises:
        IncompleteShard: after the last image, if there are damaged ones.
    """
    before = len(damaged)
    for index in indices:
        try:
            image = source.image(index)
        except DamagedImageError as error:
            damaged.append(str(error))
        else:
            yield image_sample(f"{index:08d}", image, int(source.labels[index]))
    if len(damaged) > before:
        raise IncompleteShard
