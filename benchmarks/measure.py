"""`edm2 measure` beside torch-fidelity, on the same folders of PNG files and with the same weights.

`python benchmarks/measure.py [--images 898] [--detector small]` writes the handwritten digits at 32×32 to two
folders, every other digit to each, with less detail in the first, and measures that by the second with both
programs. The published weights are not needed: `small` is a random network of 64 features, which leaves
covariances regular; `inception` is Inception-v3 with random weights, whose 2048 features take 0.2 s of CPU an
image. torch-fidelity measures once with the choices of edm2: kernel distance of one subset of all images,
Inception score in edm2's order of the images, and `small`'s features in float64, since it computes in
their precision; and once by its defaults: in float32, on 100 random subsets, in its own order.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch_fidelity
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

DIMS, CLASSES, SIZE = 64, 10, 32
METRICS = ("fd", "kid", "precision", "recall", "is")
KEYS = {
    "fd": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "precision": "precision",
    "recall": "recall",
    "is": "inception_score_mean",
}


class SmallNetwork(nn.Module):
    """Random features of images uint8 [N, 3, 32, 32], for edm2."""

    name, dims, fingerprint = "small", DIMS, "random"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3, stride=2), nn.Conv2d(32, DIMS, 3, stride=2)
        self.head = nn.Linear(DIMS, CLASSES, bias=False)
        nn.init.normal_(self.head.weight, std=20.0)
        self.requires_grad_(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images.float() / 32 - 4).relu()
        return self.second(hidden).relu().mean((2, 3))

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features).softmax(1)


class SmallExtractor(FeatureExtractorBase):
    """The same for torch-fidelity: features as edm2 keeps them, in a type in which it computes."""

    dtype = torch.float32

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.network = SmallNetwork()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "64", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "64"

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.network.features(images)
        values = {"64": features, "logits": self.network.head(features)}
        return tuple(values[name].to(self.dtype) for name in self.features_list)


class ExactExtractor(SmallExtractor):
    dtype = torch.float64


def write_digits(folder: Path, count: int) -> tuple[Path, Path]:
    """Every other digit in each of two folders, with few details in the first one."""
    digits = (load_digits().images * 15.9).astype(np.uint8)[: 2 * count]
    folders = folder / "generated", folder / "real"
    for k, digit in enumerate(digits):
        folders[k % 2].mkdir(exist_ok=True)
        image = Image.fromarray(digit).resize((7 + k % 2,) * 2)
        image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folders[k % 2] / f"{k:04d}.png")
    return folders


def in_order_of_edm2(folder: Path) -> Path:
    """A folder of the same images, with names in the order in which edm2 numbers them."""
    from edm2.runtime.randomness import generator

    files, target = sorted(folder.iterdir()), folder.with_name(f"{folder.name}-in-order")
    target.mkdir()
    numbers = generator(0, "evaluation/reference").permutation(len(files))
    for number, file in zip(numbers, files, strict=True):
        shutil.copy(file, target / f"{number:06d}.png")
    return target


def by_edm2(generated: Path, real: Path, detector: str, weights: Path | None) -> dict[str, Any]:
    """Values of the command, by the metric."""
    from edm2.cli.main import edm2

    out = generated.parent / "values.json"
    options = ["--detector", detector, "--metrics", ",".join(METRICS), "--allow-singular"]
    options += [] if weights is None else ["--detector-path", str(weights)]
    arguments = ["measure", str(generated), "--reference", str(real), *options, "--out", str(out)]
    edm2.main(arguments, standalone_mode=False)
    rows = json.loads(out.read_text())["rows"]
    return dict(zip(METRICS, rows, strict=True))


def by_torch_fidelity(
    generated: Path, real: Path, extractor: str, weights: Path | None, **options: Any
) -> dict[str, float]:
    return torch_fidelity.calculate_metrics(
        input1=str(generated),
        input2=str(real),
        feature_extractor=extractor,
        feature_extractor_weights_path=None if weights is None else str(weights),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        isc=True,
        verbose=False,
        save_cpu_ram=True,  # no worker processes
        cache=False,
        **options,
    )


def prepare_detector(detector: str, folder: Path) -> Path | None:
    """Make both programs know the network; returns the file of its weights, if it has one."""
    from edm2.params.seams import DETECTORS, DetectorKind

    if detector == "small":
        DETECTORS.register(
            "small", DetectorKind(lambda *_: SmallNetwork(), DIMS, predicts_classes=True)
        )
        torch_fidelity.register_feature_extractor("small", SmallExtractor)
        torch_fidelity.register_feature_extractor("small-exact", ExactExtractor)
        return None
    from random_detectors import random_inception

    from edm2.features import inception

    path = folder / "inception.pth"
    torch.save(random_inception(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    inception.INCEPTION_WEIGHTS = replace(inception.INCEPTION_WEIGHTS, sha256=digest)
    return path


def compare(images: int, detector: str) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as name:
        generated, real = write_digits(Path(name), images)
        weights = prepare_detector(detector, Path(name))
        ours = by_edm2(generated, real, detector, weights)
        ordered = in_order_of_edm2(generated)
        usual, exact = ("inception-v3-compat",) * 2
        if detector == "small":
            usual, exact = "small", "small-exact"
        same = {"kid_subsets": 1, "kid_subset_size": images, "samples_shuffle": False}
        every = by_torch_fidelity(ordered, real, exact, weights, **same)
        smaller = min(1000, images // 2)
        subsets = by_torch_fidelity(generated, real, usual, weights, kid_subset_size=smaller)
    rows = [
        {
            "metric": ours[metric]["metric"],
            "edm2": ours[metric]["value"],
            "torch-fidelity": every[KEYS[metric]],
            "relative difference": abs(ours[metric]["value"] / every[KEYS[metric]] - 1),
            "edm2: standard error": ours[metric]["standard_error"],
            "by its defaults": subsets[KEYS[metric]],
        }
        for metric in METRICS
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=898, help="in each folder")
    parser.add_argument("--detector", choices=["small", "inception"], default="small")
    args = parser.parse_args()
    table = compare(args.images, args.detector)
    print(table.to_string(index=False, na_rep="", float_format="{:.7g}".format))


if __name__ == "__main__":
    main()
