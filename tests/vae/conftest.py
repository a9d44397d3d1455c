"""Params with tiny numbers, a random backbone, and a small data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2.data.images import ImageShards, image_sample
from edm2.data.shards import write_shard
from edm2.features.classifier import Classifier
from edm2.params import load
from edm2.params.vae import Vae
from edm2.runtime.manifest import write_manifest

TINY = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "latent_channels": 2,
        "batch": 8, "duration_nimg": 160, "log_nimg": 80, "warmup_nimg": 32,
        "evaluate_nimg": 80}  # fmt: skip


@pytest.fixture
def tiny() -> Callable[..., Vae]:
    """tiny(attention=True, …): small params with some of them changed."""
    whole = load(Path(__file__).parents[2] / "params.yaml").vae

    def change(**changes: Any) -> Vae:
        losses = {key: changes.pop(key) for key in list(changes) if hasattr(whole.losses, key)}
        changes["losses"] = whole.losses.model_copy(update=losses)
        return whole.model_copy(update={**TINY, **changes})

    return change


@pytest.fixture
def backbone() -> Classifier:
    torch.manual_seed(1)
    return Classifier(8, 2, 8, num_classes=2, resolution=8).eval().requires_grad_(False)


@pytest.fixture
def images(tmp_path: Path) -> ImageShards:
    """Twelve images of 8×8 in shards of 5, 5 and 2: smooth colours."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 8)[:, None, None] * rng.uniform(0, 255, (12, 1, 8, 3))
    samples = [image_sample(f"{i:08d}", x.astype(np.uint8), i % 3) for i, x in enumerate(ramp)]
    folder = tmp_path / "images"
    for k in range(3):
        write_shard(folder / f"train-{k:06d}.tar", samples[5 * k : 5 * k + 5])
    write_manifest(folder, classes=["a", "b", "c"], resolution=8)
    return ImageShards(folder, "train")
