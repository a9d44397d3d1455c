"""Tiny params, a random backbone, and a small dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_autoencoder import TINY, make_backbone, vae_params

from edm2.data.images import ImageShards, image_sample
from edm2.data.shards import write_shard
from edm2.features.classifier import Classifier
from edm2.params.vae import Losses, Vae
from edm2.runtime.manifest import write_manifest


@pytest.fixture
def tiny() -> Callable[..., Vae]:
    """tiny(attention=True, kl=1.0, …): tiny params with changes; losses go by their own names."""

    def change(**changes: Any) -> Vae:
        return vae_params(
            TINY,
            {
                f"losses.{key}" if key in Losses.model_fields else key: value
                for key, value in changes.items()
            },
        )

    return change


@pytest.fixture
def backbone() -> Classifier:
    return make_backbone(resolution=8)


@pytest.fixture
def images(tmp_path: Path) -> ImageShards:
    """Twelve images of 8×8 in shards of 5, 5 and 2: smooth colors."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 8)[:, None, None] * rng.uniform(0, 255, (12, 1, 8, 3))
    samples = [image_sample(f"{i:08d}", x.astype(np.uint8), i % 3) for i, x in enumerate(ramp)]
    folder = tmp_path / "images"
    for k in range(3):
        write_shard(folder / f"train-{k:06d}.tar", samples[5 * k : 5 * k + 5])
    write_manifest(folder, classes=["a", "b", "c"], resolution=8, crop="lanczos")
    return ImageShards(folder, "train")
