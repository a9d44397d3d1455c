"""Speed of the Fréchet distance, compared with the matrix square root that it avoids.

`python benchmarks/frechet.py [--dims 2048] [--images 10000] [--threads 2]` draws random features with a
falling spectrum, like that of image features. It times in one process: mean and covariance of batches
as they arrive, the distance, and the same distance by `scipy.linalg.sqrtm` of the product of the
covariances.
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


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return median(seconds), result


def streamed(features: Any) -> tuple[Any, Any]:
    """Mean and covariance of features that arrive in batches."""
    from edm2.metrics.statistics import Statistics

    statistics = Statistics.empty(features.shape[1])
    for start in range(0, len(features), BATCH):
        statistics.update(features[start : start + BATCH])
    return statistics.mean, statistics.covariance


def distance_by_square_root(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    from scipy.linalg import sqrtm

    root = sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + (cov_a + cov_b - 2 * root.real).trace())


def compare(args: argparse.Namespace) -> None:
    import numpy as np
    import pandas as pd

    from edm2.metrics import frechet_distance

    rng = np.random.default_rng(0)
    scales = np.exp(-5 * np.arange(args.dims) / args.dims)
    mixing = rng.normal(size=(args.dims, args.dims)) / np.sqrt(args.dims)

    def draw_features(shift: float) -> Any:
        """float32 [images, dims], with another mean and covariance for each shift."""
        normals = rng.normal(size=(args.images, args.dims)) + shift
        return (normals * scales * (1 + shift) @ mixing).astype(np.float32)

    a, b = draw_features(0.0), draw_features(0.1)

    streamed_seconds, moments = timed(lambda: [*streamed(a), *streamed(b)], 1)
    edm2_seconds, edm2_distance = timed(lambda: frechet_distance(*moments), args.repeats)
    sqrtm_seconds, sqrtm_distance = timed(lambda: distance_by_square_root(*moments), 1)
    rows = [
        (f"moments of 2 x {args.images} images", streamed_seconds, ""),
        ("edm2.metrics.frechet_distance", edm2_seconds, repr(edm2_distance)),
        ("scipy.linalg.sqrtm", sqrtm_seconds, repr(sqrtm_distance)),
    ]
    print(f"{args.dims} dimensions, {args.threads} threads")
    print(
        pd.DataFrame(rows, columns=["", "seconds", "distance"]).to_string(
            index=False, float_format="{:.2f}".format
        )
    )
    print(f"speedup of the distance: {sqrtm_seconds / edm2_seconds:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of the distance; median")
    args = parser.parse_args()
    # before the libraries are imported
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)
    compare(args)


if __name__ == "__main__":
    main()
