"""Which images are trained on, and which are held out."""

import numpy as np
from numpy.typing import NDArray

from edm2.runtime.randomness import generator

Split = tuple[NDArray[np.int64], NDArray[np.int64]]  # indices for training, indices held out


def split_classes(labels: NDArray[np.int64], held_out: float, seed: int) -> Split:
    """Indices for training and held-out, each in random order.

    The fraction `held_out` is taken of every class: at least one image of it, and never all.
    """
    rng = generator(seed, "split")
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        chosen.append(members[:count])
    held = rng.permutation(np.concatenate(chosen))
    train = np.setdiff1d(np.arange(len(labels)), held)
    return rng.permutation(train), held
