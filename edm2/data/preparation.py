"""From a source to image shards."""

from pathlib import Path
from typing import Any

import numpy as np

from edm2.data.images import image_sample
from edm2.data.shards import write_shard
from edm2.data.sources import Source
from edm2.params.dataset import Dataset
from edm2.runtime.progress import track


def prepare_images(source: Source, folder: Path, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Write `train-*.tar` and `held_out-*.tar`; shards that already exist are kept.

    Returns:
        metadata for the manifest: source, resolution, crop, classes, images per split and class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = source.split(dataset.held_out, seed)
    splits = {"train": train, "held_out": held_out}
    shards = [
        (folder / f"{split}-{k:06d}.tar", indices[start : start + dataset.shard_images])
        for split, indices in splits.items()
        for k, start in enumerate(range(0, len(indices), dataset.shard_images))
    ]
    for path, indices in track(shards, "prepare", len(shards), "shard"):
        if not path.exists():
            write_shard(
                path,
                (image_sample(f"{i:08d}", source.image(i), int(source.labels[i])) for i in indices),
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
