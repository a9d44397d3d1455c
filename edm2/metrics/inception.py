"""Inception score (Salimans et al. 2016)."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr


def inception_score(probabilities: NDArray[np.floating], splits: int = 10) -> tuple[float, float]:
    """exp(mean_i KL(p(y|x_i) ‖ p(y))): between 1 and the number of classes; higher is better.

    The images are cut into `splits` consecutive parts of equal size, and p(y) is the mean of p(y|x)
    over one part. So classes should be mixed: in random order, or each class in turn.

    Args:
        probabilities: p(y|x) [N, classes]; each row sums to 1.

    Returns:
        mean and population standard deviation over the splits.

    Raises:
        ValueError: wrong shape, rows that are not probabilities, or fewer images than splits.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise ValueError(
            f"expected probabilities [N, classes] and 1 to N splits, got {p.shape} and {splits}"
        )
    if not (p >= 0).all() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError(
            "expected rows of probabilities that sum to 1; apply a softmax to logits first"
        )
    bounds = np.arange(splits + 1) * len(p) // splits
    scores = [
        np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean())
        for part in np.split(p, bounds[1:-1])
    ]
    return float(np.mean(scores)), float(np.std(scores))
