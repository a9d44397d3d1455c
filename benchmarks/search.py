"""What a search for the EMA length costs and finds, compared with a grid of 31 lengths.

`python benchmarks/search.py curves [--searches 200]` searches synthetic curves with known minima. Noise is
like that measured on the digits with blocks of 500 images: each block has a level and a slope of its own,
each value a little more. A grid has 31 lengths and 100 blocks, which is 50,000 images a length. The columns:
how often the interval has the true minimum, the lowest length of a grid on the same and on other seeds, and
the minimum of a curve that is fitted to the latter; errors of the lengths found, and how much higher the
curve is there than at its minimum; the images of the search as a share of the grid's; how often the tolerance
was reached.

`python benchmarks/search.py project DIR [--blocks 10] [--tolerance 0.005]`, after `dvc repro` in DIR,
searches with a trained network, and evaluates the grid on other seeds. The project is not changed; everything
is in `--scratch`, where an interrupted run continues.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ruamel.yaml import YAML

from edm2.metrics.jackknife import pseudovalues
from edm2.metrics.minima import coordinate, locate_minimum
from edm2.metrics.search import Point, Search

ROOT = Path(__file__).parent.parent
LOW, HIGH, TOLERANCE = 0.01, 0.25, 0.005
GRID = np.linspace(LOW, HIGH, 31).round(4)
GRID_IMAGES, SAMPLES = 50_000, 500  # of a length; of a block
GRID_BLOCKS = GRID_IMAGES // SAMPLES
MAX_BLOCKS = 90  # of a search, which then has at most about a fifth of the grid's images
Array = NDArray[np.float64]
Curve = Callable[[Any], Any]


def _x(length: Any, best: float) -> Any:
    return coordinate(length) - coordinate(best)


CURVES: dict[str, tuple[float, Curve]] = {  # with their minimum
    "digits": (0.172, lambda s: 1.21 + 0.0665 * _x(s, 0.172) ** 2 + 0.0028 * _x(s, 0.172) ** 3),
    "steep and flat": (
        0.05,
        lambda s: 2 + 0.1 * np.log(s / 0.05) ** 2 - 0.02 * np.log(s / 0.05) ** 3,
    ),
    "two errors": (0.03, lambda s: 2 + 0.05 * (0.03 / s + s / 0.03)),
    "flat bottom": (0.1, lambda s: 2 + 0.03 * (_x(s, 0.1) ** 2 + _x(s, 0.1) ** 4)),
    "near the long end": (0.24, lambda s: 2 + 0.1 * _x(s, 0.24) ** 2),
    "near the short end": (0.012, lambda s: 2 + 0.1 * _x(s, 0.012) ** 2),
}
NOISES = {"common slopes": (0.3, 0.04, 0.003), "each value": (0.3, 0.0, 0.01)}


class Synthetic:
    """Values of a curve on blocks of images, which are counted."""

    def __init__(self, curve: Curve, noise: tuple[float, float, float], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.curve, self.seed, self.own = curve, seed, noise[2]
        self.levels = rng.normal(0, noise[0], GRID_BLOCKS)
        self.slopes = rng.normal(0, noise[1], GRID_BLOCKS)
        self.blocks: dict[float, int] = {}

    def __call__(self, points: Sequence[Point], count: int) -> Array:
        for length, _ in points:
            self.blocks[length] = max(count, self.blocks.get(length, 0))
        return np.stack([self.values(length)[:count] for length, _ in points])

    def values(self, length: float) -> Array:
        rng = np.random.default_rng([self.seed, round(length * 1e6)])
        slopes = self.slopes * (coordinate(length) + 1)
        own: Array = rng.normal(0, self.own, GRID_BLOCKS)
        return self.curve(length) + self.levels + slopes + own


def search_curves(searches: int) -> pd.DataFrame:
    """A row per curve and kind of noise."""
    rows = []
    for (name, (best, curve)), (kind, noise) in (
        (c, n) for c in CURVES.items() for n in NOISES.items()
    ):
        found = [_search_curve(curve, noise, seed, best) for seed in range(searches)]
        rows.append(
            {"curve": name, "minimum": best, "noise": kind} | pd.DataFrame(found).mean().to_dict()
        )
    return pd.DataFrame(rows)


def _search_curve(
    curve: Curve, noise: tuple[float, float, float], seed: int, best: float
) -> dict[str, float]:
    synthetic = Synthetic(curve, noise, seed)
    found = Search(LOW, HIGH, TOLERANCE, MAX_BLOCKS).find(synthetic)
    evaluations = sum(synthetic.blocks.values()) + found.blocks  # and the network at the minimum
    grids = [
        np.stack([source.values(length) for length in GRID]).mean(axis=1)
        for source in (synthetic, Synthetic(curve, noise, 10_000 + seed))
    ]
    same, other = (GRID[int(grid.argmin())] for grid in grids)
    fitted = locate_minimum(GRID.tolist(), [0] * len(GRID), grids[1].tolist()).place
    low, high = found.interval
    return {
        "covered": low <= best <= high,
        "grid, same seeds": low <= same <= high,
        "grid, other seeds": low <= other <= high,
        "its fit": low <= fitted <= high,
        "width": high - low,
        "error": abs(found.place[0] - best),
        "error of grid": abs(other - best),
        "1000 x loss": 1000 * (curve(found.place[0]) - curve(best)),
        "1000 x loss of grid": 1000 * (curve(other) - curve(best)),
        "images": evaluations / (len(GRID) * GRID_BLOCKS),
        "known": found.is_known,
    }


def make_project(folder: Path, project: Path, tolerance: float) -> None:
    """A project with the code of this checkout, the results of `project`, and its params for a search."""
    folder.mkdir(parents=True, exist_ok=True)
    links = {"edm2": ROOT, "stages": ROOT, "dvc.yaml": ROOT, "data": project}
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for name, source in links.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(source.resolve() / name)
    for source in (project.resolve() / "models").iterdir():
        if source.name != "sweep" and not (models / source.name).exists():
            (models / source.name).symlink_to(source)
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    search = {"low": LOW, "high": HIGH, "tolerance": tolerance}
    params["sweep"] |= {"search": search, "materialize": False, "nimg": None, "tensors": []}
    params["evaluation"] |= {"samples": SAMPLES, "seed_blocks": MAX_BLOCKS, "confirm": False}
    params["evaluation"] |= {"metrics": ["fd"]}
    params["runtime"] |= {"threads": 1, "device": "cpu"}
    params["tracking"]["mlflow"] = False
    yaml.dump(params, folder / "params.yaml")


def search_project(folder: Path, config: str, blocks: int) -> dict[str, Any]:
    """The search with a trained network, and the grid on `blocks` blocks of other seeds."""
    import torch

    from edm2.params import load
    from edm2.params.replicates import find_replicate
    from edm2.pipeline import runner
    from edm2.pipeline.evaluation_items import Evaluation, ItemEvaluator
    from edm2.pipeline.paths import sweep_folder
    from edm2.pipeline.search_evaluation import SearchEvaluator
    from edm2.pipeline.sweep import sweep_ema
    from edm2.reporting.selection import best_of
    from edm2.runtime.manifest import load_manifest
    from edm2.runtime.state import used_state

    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    params = load("params.yaml")
    replicate = find_replicate(params.replicates, config, config, "params.yaml")
    runner.run_stage("sweep_ema", sweep_ema, params, replicate)
    manifest = load_manifest(sweep_folder(replicate))
    params = params.of(replicate.config)
    with used_state("search", "benchmark") as state:
        items = ItemEvaluator("search", params, replicate, torch.device("cpu"), state, True)
        start = time.process_time()
        search = SearchEvaluator(items, manifest)
        best = best_of(search.evaluate())
        seconds = time.process_time() - start
        images = len(search.evaluated) * SAMPLES
        networks = search.networks.at([float(length) for length in GRID])
        seeds = items.first_seeds(MAX_BLOCKS, blocks)
        grid = [[Evaluation(n, 1.0, "fresh", seed) for seed in seeds] for n in networks]
        items.evaluator.sampler.reader.queue = [network.file for network in networks]
        items.complete([item for row in grid for item in row])
        reference = items.evaluator.reference
        moments = [[items.moments(item) for item in row] for row in grid]
        values, finite = zip(*(pseudovalues(row, reference) for row in moments), strict=True)
    fitted = locate_minimum(
        np.repeat(GRID, blocks), np.tile(range(blocks), len(GRID)), np.concatenate(values)
    )
    return {
        "search": {
            "place": best["minimum"],
            "interval": [best["minimum_low"], best["minimum_high"]],
            "tolerance reached": bool(best["minimum_known"]),
            "blocks": int(best["merged_blocks"]),
            "images": images,
            "value": best["curve_value"],
            "standard error": best["standard_error"],
            "CPU seconds of this launch": seconds,
        },
        "grid": {
            "images a length": blocks * SAMPLES,
            "images": blocks * SAMPLES * len(GRID),
            "lowest": float(GRID[int(np.argmin(finite))]),
            "lowest at infinitely many samples": float(
                GRID[int(np.argmin(np.mean(values, axis=1)))]
            ),
            "fitted": fitted.place,
            "interval": fitted.interval,
            "values": dict(zip(GRID.tolist(), finite, strict=True)),
        },
        "images of the search, share of the grid with 50,000 a length": images
        / (GRID_IMAGES * len(GRID)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    curves = kinds.add_parser("curves", help="synthetic curves with known minima")
    curves.add_argument("--searches", type=int, default=200, help="of each curve; default: 200")
    project = kinds.add_parser("project", help="a trained network")
    project.add_argument("project", type=Path)
    project.add_argument("--tolerance", type=float, default=TOLERANCE, help="default: %(default)s")
    project.add_argument("--config", default="G")
    project.add_argument("--blocks", type=int, default=10, help="of the grid; default: 10")
    project.add_argument(
        "--scratch", type=Path, required=True, help="folder of the temporary project"
    )
    args = parser.parse_args()
    if args.kind == "curves":
        print(search_curves(args.searches).round(3).to_string(index=False))
        return
    scratch = args.scratch.resolve()
    make_project(scratch, args.project, args.tolerance)
    print(json.dumps(search_project(scratch, args.config, args.blocks), indent=1))


if __name__ == "__main__":
    main()
