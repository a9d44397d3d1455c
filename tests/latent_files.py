"""Latents in files, as EDM2's tools write them."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def npy(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def latent(number: int, shape: tuple[int, int, int] = (2, 4, 4)) -> NDArray[np.float32]:
    """Means and then standard deviations, [2 C, H, W]."""
    rng = np.random.default_rng(number)
    return np.concatenate([rng.normal(size=shape), rng.uniform(0.1, 0.2, shape)]).astype(np.float32)


def name(number: int) -> str:
    return f"00000/img-mean-std-{number:08d}.npy"


def labels_file(labels: Sequence[int] | None) -> bytes:
    rows = None if labels is None else [[name(k), label] for k, label in enumerate(labels)]
    return json.dumps({"labels": rows}).encode()


def members(labels: Sequence[int], **shape: tuple[int, int, int]) -> dict[str, bytes]:
    """The files of a data set of latents, by name."""
    latents = {name(k): npy(latent(k, **shape)) for k in range(len(labels))}
    return {**latents, "dataset.json": labels_file(labels)}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder
