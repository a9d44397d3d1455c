"""Learning-rate schedules that several trainings use."""

import math


def warmup_cosine(nimg: int, warmup_nimg: int, duration_nimg: int) -> float:
    """Learning-rate factor: a linear rise to 1 in the warm-up, then a cosine to 0 at the end."""
    if nimg < warmup_nimg:
        return nimg / warmup_nimg
    decay_nimg = max(1, duration_nimg - warmup_nimg)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (nimg - warmup_nimg) / decay_nimg)))
