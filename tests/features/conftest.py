"""Tiny params, and a dataset of dark and bright images."""

from pathlib import Path

import numpy as np
import pytest

from edm2.data.images import ImageShards, image_sample
from edm2.data.shards import write_shard
from edm2.params import load
from edm2.params.features import Features
from edm2.runtime.manifest import write_manifest


@pytest.fixture
def features() -> Features:
    update = {
        "channels": 8,
        "slices": 2,
        "dims": 8,
        "batch": 16,
        "duration_nimg": 320,
        "log_nimg": 160,
        "lr": 0.01,
        "max_shift": 1,
    }
    return load(Path(__file__).parents[2] / "params.yaml").features.model_copy(update=update)


@pytest.fixture
def images(tmp_path: Path) -> ImageShards:
    """48 images of 8×8: class 0 dark, class 1 bright, both noisy."""
    rng = np.random.default_rng(0)
    samples = [
        image_sample(
            f"{i:08d}", rng.integers(100 * (i % 2), 156 + 100 * (i % 2), (8, 8, 3), np.uint8), i % 2
        )
        for i in range(48)
    ]
    write_shard(tmp_path / "train-000000.tar", samples)
    write_manifest(tmp_path, classes=["dark", "bright"], resolution=8, crop="lanczos")
    return ImageShards(tmp_path, "train")
