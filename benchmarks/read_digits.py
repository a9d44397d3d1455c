"""Share of generated digits that an independent classifier assigns to their class label.

`python benchmarks/read_digits.py [TRAINING] [--min-accuracy FRACTION]`, after `dvc repro`, generates images
with the best network of the sweep and classifies them with a support-vector machine, fitted to the 8×8
digits of scikit-learn. The exit status is 1 if the share is below FRACTION.
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
from edm2.params.replicates import Replicate
from edm2.pipeline.paths import sweep_folder
from edm2.pipeline.project_networks import project_sampler
from edm2.reporting.selection import best_of

SEEDS = range(1_000_000, 1_001_000)  # not among the seeds of the sweep


def generate(replicate: Replicate, network: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [N, 3, 16, 16] of SEEDS, and their class labels [N]."""
    sampler = project_sampler(
        load("params.yaml").of(replicate.config), replicate.config, torch.device("cpu")
    )
    denoise = sampler.denoise(sweep_folder(replicate) / f"{network}.safetensors", None, 1.0)
    images = [batch.samples for batch in sampler.images(denoise, SEEDS, sampler.labels(SEEDS))]
    return torch.cat(images), sampler.labels(SEEDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", nargs="?", default="G-0")
    parser.add_argument("--min-accuracy", type=float, default=0.0)
    args = parser.parse_args()
    named = f"training {args.training}"
    replicate = load("params.yaml").replicate(args.training, named, "params.yaml")
    best = best_of(pd.read_csv(f"reports/fid/{replicate}.csv"))
    images, labels = generate(replicate, best["network"])
    gray = images.float().mean(1)
    pixels = torch.nn.functional.avg_pool2d(gray, gray.shape[-1] // 8).flatten(1)  # [N, 64]
    classifier = SVC(gamma=0.001).fit(*load_digits(return_X_y=True))
    correct = classifier.predict(pixels.numpy() * (16 / 255)) == labels.numpy()
    print(
        f"training {replicate}, EMA length {best['ema_length']:g}: {correct.mean():.1%} of {len(correct)} "
        "generated digits are classified as their label"
    )
    for digit in np.unique(labels):
        print(f"  {digit}: {correct[labels.numpy() == digit].mean():.0%}")
    return int(correct.mean() < args.min_accuracy)


if __name__ == "__main__":
    sys.exit(main())
