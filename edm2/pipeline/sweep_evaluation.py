"""The evaluation of a sweep: every network at every guidance strength, and the best ones again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file

from edm2.data.latents import read_latent_space
from edm2.diffusion.precision import denoiser_precision
from edm2.pipeline.evaluator import Evaluator, GeneratedImages
from edm2.pipeline.networks import ALL, SweptNetwork, load_networks
from edm2.pipeline.outputs import write_table
from edm2.pipeline.paths import LATENTS, samples_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.reporting.curves import draw_ema_curves
from edm2.reporting.grids import grid_name, write_class_grid, write_strips
from edm2.reporting.selection import best_of, best_unguided_and_guided, ema_curve, metrics_of
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.files import write_json
from edm2.runtime.progress import Progress

Row = dict[str, Any]


def evaluate_sweep(context: StageContext) -> None:
    """Generate images with every network of the sweep at every guidance strength, and compute their
    metrics. Evaluate the best networks again on fresh seeds (evaluation.confirm).
    """
    latents, folder = read_latent_space(LATENTS), context.state.folder
    params = denoiser_precision(
        context.params, context.config, latents, folder, context.device, trains=False
    )
    context = replace(context, params=params)
    evaluator = SweepEvaluator(context, Evaluator(context.params, context.config, context.device))
    evaluation, strengths = context.params.evaluation, context.params.guidance.strength
    first, size = evaluation.first_seed, evaluation.seed_blocks * evaluation.samples
    rows = [
        row
        for network in evaluator.networks
        for strength in strengths
        for seed in range(first, first + size, evaluation.samples)
        for row in evaluator.evaluate(network, strength, "sweep", seed)
    ]
    if evaluation.confirm:
        for best in best_unguided_and_guided(pd.DataFrame(rows)):
            (network,) = (n for n in evaluator.networks if n.name == best["network"])
            for seed in range(first + size, first + 2 * size, evaluation.samples):
                rows += evaluator.evaluate(network, float(best["guidance"]), "fresh", seed)
    evaluator.progress.close()
    if is_main_process():
        table = pd.DataFrame(rows)
        write_table(context, f"reports/fid/{context.config}.csv", table)
        evaluator.draw_strips(best_of(table))
        log_curves(context, table)


class SweepEvaluator:
    """Evaluates networks one by one. Results are saved in the state, so that an interrupted stage
    continues with the next network.
    """

    def __init__(self, context: StageContext, evaluator: Evaluator) -> None:
        self.context, self.evaluator = context, evaluator
        self.folder, self.networks = sweep_folder(context.config), load_networks(context.config)
        evaluation, strengths = context.params.evaluation, context.params.guidance.strength
        confirmations = evaluation.confirm * len({strength == 1 for strength in strengths})
        evaluations = len(self.networks) * len(strengths) + confirmations
        images = evaluations * evaluation.seed_blocks * evaluation.samples
        self.progress = Progress(context.title, images, "img")

    def evaluate(
        self, network: SweptNetwork, strength: float, seeds: str, first_seed: int
    ) -> list[Row]:
        """One row of the table per metric, for one network, guidance strength and seed block.

        Args:
            seeds: "sweep" or "fresh", for the table.
        """
        evaluation = self.context.params.evaluation
        path = self.context.state.folder / f"{network.name}-w{strength!r}-{first_seed}.json"
        before = self.progress.done
        if not path.exists():
            generated = self.evaluator.generate(
                self.folder, network, strength, first_seed, self.progress
            )
            if generated is not None:
                if seeds == "sweep" and first_seed == evaluation.first_seed:
                    self._draw_grid(network.name, strength, generated)
                common = {
                    "config": self.context.config,
                    "network": network.name,
                    **network.columns,
                    "seeds": seeds,
                }
                rows = self.evaluator.rows(generated, strength, first_seed)
                write_json(path, [{**common, **row} for row in rows])
            barrier()
        self.progress.advance(before + evaluation.samples - self.progress.done)
        saved: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        return saved

    def _draw_grid(self, name: str, strength: float, generated: GeneratedImages) -> None:
        images, labels = generated.images.contiguous(), generated.labels.contiguous()
        save_file({"images": images, "labels": labels}, self._grid_images(name, strength))
        path = self.context.out(samples_folder(self.context.config)) / grid_name(name, strength)
        write_class_grid(path, images, labels, self.evaluator.classes)

    def _grid_images(self, name: str, strength: float) -> Path:
        """File in the state with the images of a grid, for the strips."""
        return self.context.state.folder / f"{name}-w{strength!r}.safetensors"

    def draw_strips(self, best: pd.Series) -> None:
        """The same seeds at every EMA length, and at every guidance strength with the best network."""
        strengths = self.context.params.guidance.strength
        uniform = [n for n in self.networks if (n.tensors, n.nimg) == (ALL, best["nimg"])]
        lengths = {
            f"{network.ema_length:g}": (network.name, float(best["guidance"]))
            for network in sorted(uniform, key=lambda network: network.ema_length)
        }
        guided = {f"w = {w:g}": (str(best["network"]), w) for w in strengths}
        folder = self.context.out(samples_folder(self.context.config))
        for kind, rows in (("lengths", lengths), ("strengths", guided)):
            images = {label: load_file(self._grid_images(*key)) for label, key in rows.items()}
            if len(images) > 1:
                write_strips(folder / kind, images)


def log_curves(context: StageContext, table: pd.DataFrame) -> None:
    """Log the EMA curves of all metrics, the metrics of the best network, and its figures."""
    for _, row in ema_curve(table).iterrows():
        values = {f"ema_curve/{key}": value for key, value in metrics_of(table, row).items()}
        context.run.log(round(1000 * row["ema_length"]), values, axis="ema_length_permille")
    best = best_of(table)
    settings = {key: float(best[key]) for key in ("ema_length", "guidance")}
    context.run.log_summary({**metrics_of(table, best), **settings})
    figure = context.state.folder / "ema_curve.png"
    draw_ema_curves(table, figure)
    samples = context.out(samples_folder(context.config))
    for path in (figure, samples / grid_name(best["network"], best["guidance"])):
        context.run.log_artifact(path)
