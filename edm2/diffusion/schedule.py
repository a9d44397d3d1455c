"""Learning rate over training time."""

import math


def learning_rate(
    nimg: int, batch: int, ref: float, decay_batches: float, rampup_nimg: int
) -> float:
    """α(t) = α_ref / √max(t/t_ref, 1), with a linear ramp-up (EDM2 eq. 67).

    Args:
        nimg: images seen before the step, so that the first step of a ramp has rate 0.
        batch: images per batch; t = nimg / batch.
        ref: reference learning rate α_ref.
        decay_batches: t_ref; ∞ keeps the rate constant.
        rampup_nimg: images over which the rate rises from 0.
    """
    decay = math.sqrt(max(nimg / batch / decay_batches, 1.0))
    return ref / decay * min(nimg / rampup_nimg, 1.0)
