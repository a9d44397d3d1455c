"""Zip archives of a data set in the format of EDM's and StyleGAN's tools, which both read."""

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edm2.data.images import PreparedImages, image_sample
from edm2.data.latents import LatentShards
from edm2.runtime.files import replacing

PER_FOLDER = 1000
BATCH = 256
Member = tuple[str, bytes, int]  # name, content, label


def image_members(images: PreparedImages) -> Iterable[Member]:
    """Every image as PNG, `00000/img00000000.png`, in the order of the split."""
    for index in range(len(images)):
        image, label = images.load_image(index)
        content = image_sample("", np.asarray(image), label)["png"]
        assert isinstance(content, bytes)
        yield f"{index // PER_FOLDER:05d}/img{index:08d}.png", content, label


def latent_members(latents: LatentShards) -> Iterable[Member]:
    """Every latent as a NumPy file, `00000/img-mean-std-00000000.npy`: float32 [2 C, H, W] with C means and
    then C standard deviations on the codec's own scale, as EDM2 stores those of Stable Diffusion's encoder.
    """
    for start in range(0, len(latents), BATCH):
        numbers = range(start, min(start + BATCH, len(latents)))
        mean, std, labels = latents.batch(numbers)
        both = np.concatenate([mean.float().numpy(), std.float().numpy()], axis=1)
        for index, values, label in zip(numbers, both, labels.tolist(), strict=True):
            yield member_of(index, values, label)


def member_of(index: int, values: NDArray[np.float32], label: int) -> Member:
    """The NumPy file of a latent."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return f"{index // PER_FOLDER:05d}/img-mean-std-{index:08d}.npy", buffer.getvalue(), label


def write_dataset_zip(path: Path, members: Iterable[Member]) -> int:
    """Write members without compression, and their labels in dataset.json; returns how many there are.

    The file appears when it is complete.
    """
    labels: list[tuple[str, int]] = []
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content, label in members:
            archive.writestr(name, content)
            labels.append((name, label))
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return len(labels)
