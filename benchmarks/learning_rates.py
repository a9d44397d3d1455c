"""The best learning rate of each config, searched alike for all of them.

`python benchmarks/learning_rates.py FOLDER PROJECT [--configs A B ...]` trains the configs of the project
PROJECT, whose stages up to `encode_latents` have been run, with its params: first with each config's own
learning rate divided by FACTOR, unchanged and multiplied by it, then further in the direction of the lowest
distance until both neighbors of the best rate are known. A rate counts only if FACTOR times as much still
trains: close to where training fails, other seeds do fail. The distance of a rate is the lowest of a
few EMA lengths on one block of samples. With `--fraction 0.5` trainings have half the length, and rise and
fall of the rate are as much shorter: the schedules keep their shape. The seed should be none of those that
will be compared, so that no training is compared with the rate that suits it best.

FOLDER/learning_rates.csv has a row for each training and EMA length, written when the training has been
evaluated. Rows that exist are not computed again, and a training that was interrupted goes on from
its last checkpoint. A training that diverges has a distance of infinity.
"""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from math import isinf
from pathlib import Path
from typing import Any

sys.path.insert(0, str(ROOT := Path(__file__).parent.parent))

import pandas as pd
from ruamel.yaml import YAML

from edm2.params import Params, load
from edm2.params.configs import CONFIGS
from edm2.params.errors import NotFiniteError
from edm2.params.replicates import Replicate
from edm2.pipeline.runner import run_stage
from edm2.reporting.selection import ema_curve
from edm2.runtime.divergence import DivergedError

STAGES = ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema", "fid")
FAILS = 10  # times the lowest distance of its config: a training that went wrong
LATENTS = ("data", "models/features", "models/vae")


@dataclass(frozen=True)
class Row:
    """The distance of one network; `cpu_seconds` are those of the whole training and its evaluation."""

    config: str
    lr_ref: float
    seed: int
    duration_nimg: int
    metric: str
    ema_length: float
    value: float
    cpu_seconds: float


@dataclass(frozen=True)
class Search:
    """What all configs have in common."""

    folder: Path
    project: Path
    factor: float
    fraction: float
    seed: int
    ema_lengths: tuple[float, ...]

    @property
    def table(self) -> Path:
        return self.folder / "learning_rates.csv"

    @property
    def duration_nimg(self) -> int:
        return round(self.fraction * load(self.project / "params.yaml").diffusion.duration_nimg)

    def rows(self) -> pd.DataFrame:
        if self.table.exists():
            return pd.read_csv(self.table)
        return pd.DataFrame(columns=list(Row.__annotations__))

    def distances(self, config: str) -> "pd.Series[float]":
        """Lowest distance by learning rate, in the order of the rates."""
        rows = self.rows()
        same = {"config": config, "seed": self.seed, "duration_nimg": self.duration_nimg}
        of_config = rows[(rows[list(same)] == pd.Series(same)).all(axis=1)]
        return of_config.groupby("lr_ref")["value"].min().sort_index()

    def run(self, config: str) -> None:
        """Train until both neighbors of the best rate are known."""
        start = load(self.project / "params.yaml").resolved(config).lr_ref
        places = [0, -1, 1]
        while places:
            for place in places:
                self._measure(config, self._rate(start, place))
            known = [self._place(start, rate) for rate in self.distances(config).index]
            best = [self._place(start, rate) for rate in (self.lowest(config), self.best(config))]
            places = sorted({k + step for k in best for step in (-1, 1)} - set(known))

    def lowest(self, config: str) -> float:
        """The rate with the lowest distance."""
        return float(self.distances(config).idxmin())

    def best(self, config: str) -> float:
        """The rate with the lowest distance of those of which the next higher one trains."""
        distances = self.distances(config)
        trains = distances.shift(-1) < FAILS * distances.min()
        return float(distances[trains].idxmin()) if trains.any() else self.lowest(config)

    def _rate(self, start: float, place: int) -> float:
        return float(f"{start * self.factor**place:.4g}")

    def _place(self, start: float, rate: float) -> int:
        return next(k for k in range(-50, 51) if self._rate(start, k) == rate)

    def _measure(self, config: str, lr_ref: float) -> None:
        if lr_ref in self.distances(config).index:
            return
        folder = self.folder / f"{config}-{lr_ref:g}-{self.seed}-{self.duration_nimg}"
        if not folder.exists():
            make_project(folder, self.project, self._changes(config, lr_ref), LATENTS)
        begin = time.process_time()
        found = dict(evaluate(folder, Replicate(config, self.seed)))
        seconds = round(time.process_time() - begin, 1)
        rows = [
            Row(config, lr_ref, self.seed, self.duration_nimg, metric, length, value, seconds)
            for (metric, length), value in found.items()
        ]
        new = pd.DataFrame([asdict(row) for row in rows])
        new.to_csv(self.table, mode="a", header=not self.table.exists(), index=False)
        print(f"{config} {lr_ref:g}: {new['value'].min():.4g}, {seconds:g} s of CPU", flush=True)
        shutil.rmtree(folder)

    def _changes(self, config: str, lr_ref: float) -> dict[str, Any]:
        params = load(self.project / "params.yaml")
        own = params.diffusion.per_config.get(config, {})
        resolved = params.resolved(config)
        decay = self.fraction * resolved.lr_decay_batches
        return {
            "diffusion.lr_decay_batches": None if isinf(decay) else decay,
            "diffusion.duration_nimg": self.duration_nimg,
            "diffusion.lr_rampup_nimg": round(self.fraction * resolved.lr_rampup_nimg),
            "configs": [config],
            "seeds": [self.seed],
            "diffusion.per_config": {config: {**own, "lr_ref": lr_ref}},
            "sweep.ema_lengths": list(self.ema_lengths),
            "evaluation.seed_blocks": 1,
            "evaluation.confirm": False,
            "runtime.threads": 1,
            "runtime.workers": 0,
            "tracking.mlflow": False,
        }


def make_project(
    folder: Path, project: Path, changes: dict[str, Any], inputs: tuple[str, ...]
) -> None:
    """A project with the code of this checkout, and with the params and the results `inputs` of `project`."""
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", "stages", "edm2"):
        (folder / name).symlink_to(ROOT / name)
    for name in inputs:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).symlink_to((project / name).resolve())
    tree = YAML(typ="safe").load(project / "params.yaml")
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = value
    YAML(typ="safe").dump(tree, folder / "params.yaml")


def evaluate(folder: Path, training: Replicate) -> Iterator[tuple[tuple[str, float], float]]:
    """The distances of a project's networks by metric and EMA length; infinity if its training diverges."""
    with contextlib.chdir(folder):
        params = load("params.yaml")
        try:
            for name in STAGES:
                _run(name, params, training)
        except (DivergedError, NotFiniteError) as error:
            print(f"{folder.name}: {error}", file=sys.stderr)
            yield ("diverged", float("nan")), float("inf")
            return
        curve = ema_curve(pd.read_csv(f"reports/fid/{training}.csv"))
        for _, row in curve.iterrows():
            yield (str(row["metric"]), float(row["ema_length"])), float(row["value"])


def _run(name: str, params: Params, training: Replicate) -> None:
    stage = import_module(f"stages.{name}")
    run_stage(name, stage.run, params, training, getattr(stage, "external_inputs", None))


def summary(search: Search, configs: list[str]) -> pd.DataFrame:
    """The best rate of each config; `edge`: whether a neighbor of it was not measured."""
    rows = []
    for config in configs:
        distances, best = search.distances(config), search.best(config)
        rows.append(
            {
                "config": config,
                "lr_ref": best,
                "distance": distances[best],
                "edge": "yes" if best in (distances.index[0], distances.index[-1]) else "no",
                "all": ", ".join(f"{rate:g}: {d:.3f}" for rate, d in distances.items()),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("project", type=Path)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), help="default: A to G")
    parser.add_argument("--factor", type=float, default=2.0, help="between rates; default: 2")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the length; default: 1")
    parser.add_argument("--seed", type=int, default=100, help="of the trainings; default: 100")
    parser.add_argument("--ema-lengths", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    args = parser.parse_args()
    search = Search(
        args.folder.resolve(),
        args.project.resolve(),
        args.factor,
        args.fraction,
        args.seed,
        tuple(args.ema_lengths),
    )
    search.folder.mkdir(parents=True, exist_ok=True)
    for config in args.configs:
        search.run(config)
    print(summary(search, args.configs).to_string(index=False))


if __name__ == "__main__":
    main()
