"""Images that differ in their colors, and detectors of these, with exact values."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edm2.params.seams import DETECTORS, DetectorKind

DIMS = 3
NAMES = {"colors": 1, "squares": 2}  # of detectors, with their exponents


class Colors:
    """The mean of each color, to the power `exponent`: exact for any batch."""

    dims = DIMS

    def __init__(self, name: str, exponent: int) -> None:
        self.name, self.exponent, self.fingerprint = name, exponent, "0123456789abcdef" + name

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.double().mean((2, 3)).div(64).pow(self.exponent).float()


@contextmanager
def color_detectors() -> Iterator[None]:
    """Register the detectors of NAMES."""
    for name, exponent in NAMES.items():
        load = lambda *_, name=name, exponent=exponent: Colors(name, exponent)  # noqa: E731
        DETECTORS.register(name, DetectorKind(load, DIMS, published=True))
    try:
        yield
    finally:
        for name in NAMES:
            DETECTORS.remove(name)


def pixels(count: int, seed: int, size: tuple[int, int] = (6, 6)) -> Any:
    """uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(0, 200, (count, 1, 1, 3))
    return (tint + rng.integers(0, 56, (count, *size, 3))).astype(np.uint8)


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def write_folder(folder: Path, images: Any) -> Path:
    """Names are in the order of the images, in two subfolders and beside them."""
    for k, image in enumerate(images):
        below = ("a", "b", ".")[3 * k // len(images)]
        path = folder / below / f"{'c' * (below == '.')}{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return folder
