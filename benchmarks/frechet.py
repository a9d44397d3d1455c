"""Speed of the Fréchet distance, beside the matrix square root that it does without.

`python benchmarks/frechet.py [--dims 2048] [--images 10000] [--threads 2]` draws features whose spectrum
falls as that of image features does, and times in one process: their moments as they are streamed in
batches, the distance, and the same distance by `scipy.linalg.sqrtm` of the product of the covariances.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

BATCH = 500


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds, and what was made."""
    seconds, found = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return median(seconds), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeats", type=int, default=3, help="of all but sqrtm; their median counts"
    )
    given = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(given.threads)  # before they are loaded

    import numpy as np
    import pandas as pd
    import scipy.linalg

    from edm2.metrics import frechet_distance
    from edm2.metrics.statistics import Statistics

    rng = np.random.default_rng(0)
    widths = np.exp(-5 * np.arange(given.dims) / given.dims)
    mixing = rng.normal(size=(given.dims, given.dims)) / np.sqrt(given.dims)
    a, b = (
        (
            (rng.normal(size=(given.images, given.dims)) + 0.1 * k)
            * widths
            * (1 + 0.1 * k)
            @ mixing
        ).astype(np.float32)
        for k in range(2)
    )

    def streamed() -> list[Any]:
        found = []
        for features in (a, b):
            statistics = Statistics.empty(given.dims)
            for start in range(0, len(features), BATCH):
                statistics.update(features[start : start + BATCH])
            found += [statistics.mean, statistics.covariance]
        return found

    def by_square_root() -> float:
        mean_a, cov_a, mean_b, cov_b = moments
        root = scipy.linalg.sqrtm(cov_a @ cov_b)
        return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real))

    streaming, moments = timed(streamed, 1)
    ours, value = timed(lambda: frechet_distance(*moments), given.repeats)
    theirs, other = timed(by_square_root, 1)
    images = f"moments of 2 x {given.images} images"
    rows = [
        (images, streaming, ""),
        ("edm2.metrics.frechet_distance", ours, repr(value)),
        ("by scipy.linalg.sqrtm", theirs, repr(other)),
    ]
    print(f"{given.dims} dimensions, {given.threads} threads")
    print(
        pd.DataFrame(rows, columns=["", "seconds", "distance"]).to_string(
            index=False, float_format="{:.2f}".format
        )
    )
    print(f"ratio of the distances' times: {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
