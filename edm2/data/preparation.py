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
    """Write `train-*.tar` and `held_out-*.tar`; shards that are there already are kept.

    Returns:
        facts for the manifest: source, resolution, classes, images per split and class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = source.split(dataset.held_out, seed)
    plan = [
        (folder / f"{name}-{k:06d}.tar", indices[start : start + dataset.shard_images])
        for name, indices in (("train", train), ("held_out", held_out))
        for k, start in enumerate(range(0, len(indices), dataset.shard_images))
    ]
    for path, indices in track(plan, "prepare", len(plan), "shard"):
        if not path.exists():
            write_shard(
                path,
                (image_sample(f"{i:08d}", source.image(i), int(source.labels[i])) for i in indices),
            )
    return {
        "source": dataset.source,
        "resolution": dataset.resolution,
        "classes": list(source.classes),
        "images": {"train": len(train), "held_out": len(held_out)},
        "images_per_class": {
            name: np.bincount(source.labels[indices], minlength=len(source.classes)).tolist()
            for name, indices in (("train", train), ("held_out", held_out))
        },
    }
