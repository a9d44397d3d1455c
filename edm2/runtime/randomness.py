"""Random numbers that depend on seed, purpose and index alone.

They come from a counter-based generator (Philox) with that key. So sample i of a run is the same on
any device, in any batch, on any number of ranks, resumed or not.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator with the key (seed ≥ 0, purpose, index ≥ 0)."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def normals(
    seed: int, purpose: str, indices: Sequence[int], shape: Sequence[int]
) -> NDArray[np.float32]:
    """Standard normal float32 [len(indices), *shape]; row i depends on indices[i] alone."""
    rows = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(rows, indices, strict=True):
        generator(seed, purpose, index).standard_normal(dtype=np.float32, out=row)
    return rows


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for PyTorch's own generators (initialization, dropout)."""
    return int(generator(seed, purpose, index).integers(2**63))
