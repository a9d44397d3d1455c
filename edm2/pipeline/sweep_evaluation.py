"""The evaluation of a sweep: every network at every guidance strength, and the best ones again.

It is made of work items, which any number of launches share: the stage `fid`, and `edm2 evaluate`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from edm2.data.latents import read_latent_space
from edm2.diffusion.precision import denoiser_precision
from edm2.params import Params, UserError
from edm2.params.replicates import Replicate
from edm2.pipeline.evaluator import Evaluator, GeneratedImages
from edm2.pipeline.networks import ALL, SweptNetwork, load_networks
from edm2.pipeline.outputs import write_table
from edm2.pipeline.paths import LATENTS, samples_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.reporting.grids import grid_name, write_class_grid, write_strips
from edm2.reporting.selection import best_of, best_unguided_and_guided, ema_curve, metrics_of
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.distributed import is_main_process, on_main_process
from edm2.runtime.files import link, replacing
from edm2.runtime.progress import Progress
from edm2.runtime.state import State
from edm2.runtime.work_items import claimed_items, result_of

Row = dict[str, Any]
REMEDY = "Remove it and run the same command again: only this item is evaluated again."


def evaluate_sweep(context: StageContext) -> None:
    """Generate images with every network of the sweep at every guidance strength, and compute their
    metrics. Evaluate the best networks again on fresh seeds (evaluation.confirm).
    """
    sweep = SweepEvaluator(
        context.title, context.params, context.replicate, context.device, context.state
    )
    table = sweep.evaluate()
    if is_main_process():
        write_table(context, f"reports/fid/{context.replicate}.csv", table)
        sweep.publish_pictures(context.out(samples_folder(context.replicate)), best_of(table))
        log_curves(context, table)
        best = best_of(table)
        context.conclude(
            f"{best['metric']} {best['value']:.4g} at the best EMA length, {best['ema_length']:g}"
        )


def share_evaluation(
    title: str, params: Params, replicate: Replicate, device: torch.device, state: State
) -> None:
    """Evaluate what no other launch is at, and return when all is done; nothing is published."""
    SweepEvaluator(title, params, replicate, device, state).evaluate()


@dataclass(frozen=True)
class Evaluation:
    """A work item: one network at one guidance strength, with one seed block.

    Attributes:
        seeds: "sweep" or "fresh", for the table.
    """

    network: SweptNetwork
    strength: float
    seeds: Literal["sweep", "fresh"]
    first_seed: int

    @property
    def name(self) -> str:
        return f"{self.network.name}-w{self.strength!r}-{self.first_seed}"


class SweepEvaluator:
    """Evaluates the networks of a sweep. Each item's results are saved when it is done, so that an
    interrupted launch continues with the next item.
    """

    def __init__(
        self,
        title: str,
        params: Params,
        replicate: Replicate,
        device: torch.device,
        state: State,
    ) -> None:
        latents = read_latent_space(LATENTS)
        config = replicate.config
        params = denoiser_precision(params, config, latents, state.folder, device, trains=False)
        self.title, self.params, self.replicate = title, params, replicate
        self.folder = state.items
        self.folder.mkdir(exist_ok=True, parents=True)
        self.evaluator = Evaluator(params, config, device)
        self.networks = load_networks(replicate)
        evaluation, strengths = params.evaluation, params.guidance.strength
        confirmations = evaluation.confirm * len({strength == 1 for strength in strengths})
        evaluations = len(self.networks) * len(strengths) + confirmations
        images = evaluations * evaluation.seed_blocks * evaluation.samples
        self.progress = Progress(title, images, "img", self._images_done())

    def evaluate(self) -> pd.DataFrame:
        """The table: one row per metric, for each network, guidance strength and seed block."""
        sweep = self._sweep()
        rows = self._complete(sweep)
        if self.params.evaluation.confirm:
            rows += self._complete(self._confirmations(pd.DataFrame(rows)))
        self.progress.close()
        return pd.DataFrame(rows)

    def publish_pictures(self, folder: Path, best: pd.Series) -> None:
        """The grids of all networks, and strips: the same seeds at every EMA length, and at every
        guidance strength with the best network.
        """
        grids = [item for item in self._sweep() if self._has_grid(item)]
        for item in grids:
            link(self._grid(item, "png"), folder / grid_name(item.network.name, item.strength))
        uniform = [
            item
            for item in sorted(grids, key=lambda item: item.network.ema_length)
            if (item.network.tensors, item.network.nimg) == (ALL, best["nimg"])
        ]
        lengths = {
            f"{item.network.ema_length:g}": item
            for item in uniform
            if item.strength == best["guidance"]
        }
        guided = {
            f"w = {item.strength:g}": item for item in grids if item.network.name == best["network"]
        }
        for kind, items in (("lengths", lengths), ("strengths", guided)):
            if len(items) > 1:
                images = {
                    label: load_file(self._grid(item, "safetensors"))
                    for label, item in items.items()
                }
                write_strips(folder / kind, images)

    def _sweep(self) -> list[Evaluation]:
        """All networks at all guidance strengths, on the same seeds."""
        return [
            Evaluation(network, strength, "sweep", seed)
            for network in self.networks
            for strength in self.params.guidance.strength
            for seed in self._first_seeds(0)
        ]

    def _confirmations(self, table: pd.DataFrame) -> list[Evaluation]:
        """The best networks of the sweep, on the seeds after those of the sweep."""
        networks = {network.name: network for network in self.networks}
        return [
            Evaluation(networks[best["network"]], float(best["guidance"]), "fresh", seed)
            for best in best_unguided_and_guided(table)
            for seed in self._first_seeds(self.params.evaluation.seed_blocks)
        ]

    def _first_seeds(self, block: int) -> list[int]:
        """The first seed of each seed block from number `block` on."""
        evaluation = self.params.evaluation
        return [
            evaluation.first_seed + k * evaluation.samples
            for k in range(block, block + evaluation.seed_blocks)
        ]

    def _complete(self, items: Sequence[Evaluation]) -> list[Row]:
        """The rows of these items, after evaluating those that no launch has evaluated."""
        by_name = {item.name: item for item in items}
        groups = {
            network: [item.name for item in group]
            for network, group in groupby(items, lambda item: item.network.name)
        }
        on_main_process(lambda: self._read(i for i in items if self._result(i).exists()))
        with claimed_items(self.folder, groups, self.title) as names:
            for name in names:
                self._evaluate(by_name[name])
                self.progress.advance(self._images_done() - self.progress.done)
        return on_main_process(lambda: self._read(items))

    def _evaluate(self, item: Evaluation) -> None:
        generated = self.evaluator.generate(
            sweep_folder(self.replicate),
            item.network,
            item.strength,
            item.first_seed,
            self.progress,
        )
        if generated is None:
            return
        if self._has_grid(item):
            self._draw_grid(item, generated)
        common = {
            "config": self.replicate.config,
            "training_seed": self.replicate.seed,
            "network": item.network.name,
            **item.network.columns,
            "seeds": item.seeds,
        }
        rows = self.evaluator.rows(generated, item.strength, item.first_seed)
        write_checked(self._result(item), {"rows": [{**common, **row} for row in rows]})

    def _read(self, items: Iterable[Evaluation]) -> list[Row]:
        """
        Raises:
            UserError: results are damaged; names all of them.
        """
        rows, problems = [], []
        for item in items:
            try:
                rows += read_checked(self._result(item), REMEDY, REMEDY)["rows"]
            except UserError as problem:
                problems.append(str(problem))
        if problems:
            raise UserError("\n".join(problems))
        return rows

    def _result(self, item: Evaluation) -> Path:
        return result_of(self.folder, item.name)

    def _images_done(self) -> int:
        """Images of the items that have results, of all launches."""
        return len(list(self.folder.glob("*.json"))) * self.params.evaluation.samples

    def _has_grid(self, item: Evaluation) -> bool:
        return (item.seeds, item.first_seed) == ("sweep", self.params.evaluation.first_seed)

    def _grid(self, item: Evaluation, ending: str) -> Path:
        """The picture of an item's grid, or its images, for the strips."""
        return self.folder / f"{item.name}.{ending}"

    def _draw_grid(self, item: Evaluation, generated: GeneratedImages) -> None:
        images, labels = generated.images.contiguous(), generated.labels.contiguous()
        with replacing(self._grid(item, "safetensors")) as temporary:
            save_file({"images": images, "labels": labels}, temporary)
        write_class_grid(self._grid(item, "png"), images, labels, self.evaluator.classes)


def log_curves(context: StageContext, table: pd.DataFrame) -> None:
    """Log the EMA curves of all metrics, the metrics of the best network, and its figures."""
    from edm2.reporting.curves import draw_ema_curves  # Matplotlib takes a second; others draw none

    for _, row in ema_curve(table).iterrows():
        values = {f"ema_curve/{key}": value for key, value in metrics_of(table, row).items()}
        context.run.log(round(1000 * row["ema_length"]), values, axis="ema_length_permille")
    best = best_of(table)
    settings = {key: float(best[key]) for key in ("ema_length", "guidance")}
    context.run.log_summary({**metrics_of(table, best), **settings})
    figure = context.state.folder / "ema_curve.png"
    draw_ema_curves(table, figure)
    samples = context.out(samples_folder(context.replicate))
    for path in (figure, samples / grid_name(best["network"], best["guidance"])):
        context.run.log_artifact(path)
