"""Random decisions of the host that depend on seed, purpose and index alone: orders, crops, shifts.

They come from NumPy's counter-based generator (Philox) with that key, so they are the same on any
number of ranks, resumed or not. Tensors of noise are drawn on the device: `edm2.runtime.noise`.
"""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator with the key (seed ≥ 0, purpose, index ≥ 0)."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for PyTorch's own generators (initialization, dropout)."""
    return int(generator(seed, purpose, index).integers(2**63))
