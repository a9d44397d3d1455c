"""Do the generated digits show the class asked for? A reader that had no part in training says.

`python benchmarks/read_digits.py [CONFIG] [--min-accuracy FRACTION]`, after `dvc repro`: generates images
with the best network of the sweep, and reads them with a support-vector machine fitted to
scikit-learn's own 8×8 digits. Exits with status 1 below the fraction asked for.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).parent.parent))

from edm2.params import load
from edm2.pipeline.sampler import Sampler
from edm2.reporting.selection import best_of

SEEDS = range(1_000_000, 1_001_000)  # none that the sweep has seen


def generated(config: str, network: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [N, 3, 16, 16] of SEEDS and the classes asked for."""
    sampler = Sampler(load("params.yaml").of(config), config, torch.device("cpu"))
    denoise = sampler.denoise(Path(f"models/sweep/{config}/{network}.safetensors"), None, 1.0)
    images = [batch.samples for batch in sampler.images(denoise, SEEDS, sampler.labels(SEEDS))]
    return torch.cat(images), sampler.labels(SEEDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="G")
    parser.add_argument("--min-accuracy", type=float, default=0.0)
    arguments = parser.parse_args()
    best = best_of(pd.read_csv(f"reports/fid/{arguments.config}.csv"))
    images, labels = generated(arguments.config, best["network"])
    small = torch.nn.functional.avg_pool2d(
        images.float().mean(1), images.shape[-1] // 8
    )  # [N, 8, 8]
    reader = SVC(gamma=0.001).fit(*load_digits(return_X_y=True))
    right = reader.predict(small.flatten(1).numpy() * (16 / 255)) == labels.numpy()
    print(
        f"config {arguments.config}, EMA length {best['ema_length']:g}: {right.mean():.1%} of {len(right)} "
        "generated digits are read as the class asked for"
    )
    for digit in np.unique(labels):
        print(f"  {digit}: {right[labels.numpy() == digit].mean():.0%}")
    return int(right.mean() < arguments.min_accuracy)


if __name__ == "__main__":
    sys.exit(main())
