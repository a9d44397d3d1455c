"""The evaluation of a sweep: every network at every guidance strength, and the best ones again.

It is made of work items, which any number of launches share: the stage `fid`, and `edm2 evaluate`.
"""

import pandas as pd
import torch

from edm2.params import Params
from edm2.params.replicates import Replicate
from edm2.pipeline.evaluation_items import Evaluation, ItemEvaluator
from edm2.pipeline.networks import load_networks
from edm2.pipeline.outputs import write_table
from edm2.pipeline.paths import samples_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.pipeline.search_evaluation import SearchEvaluator
from edm2.reporting.grids import grid_name
from edm2.reporting.selection import best_of, best_unguided_and_guided, ema_curve, metrics_of
from edm2.runtime.distributed import is_main_process
from edm2.runtime.manifest import load_manifest
from edm2.runtime.state import State


def evaluate_sweep(context: StageContext) -> None:
    """Generate images with every network of the sweep at every guidance strength, and compute their
    metrics. Evaluate the best networks again on fresh seeds (evaluation.confirm).
    """
    sweep = _evaluator(
        context.title, context.params, context.replicate, context.device, context.state
    )
    table = sweep.evaluate()
    if is_main_process():
        write_table(context, f"reports/fid/{context.replicate}.csv", table)
        folder = context.out(samples_folder(context.replicate))
        sweep.items.publish_pictures(sweep.evaluated, folder, best_of(table))
        log_curves(context, table)
        best = best_of(table)
        context.conclude(
            f"{best['metric']} {best['value']:.4g} at the best EMA length, {best['ema_length']:g}"
        )


def share_evaluation(
    title: str, params: Params, replicate: Replicate, device: torch.device, state: State
) -> None:
    """Evaluate what no other launch is at, and return when all is done; nothing is published."""
    _evaluator(title, params, replicate, device, state).evaluate()


def _evaluator(
    title: str, params: Params, replicate: Replicate, device: torch.device, state: State
) -> "SweepEvaluator | SearchEvaluator":
    manifest = load_manifest(sweep_folder(replicate))
    searches = manifest["search"] is not None
    items = ItemEvaluator(title, params, replicate, device, state, keeps_moments=searches)
    return SearchEvaluator(items, manifest) if searches else SweepEvaluator(items)


class SweepEvaluator:
    """Evaluates the networks of a grid.

    Attributes:
        evaluated: the items of the sweep itself.
    """

    def __init__(self, items: ItemEvaluator) -> None:
        self.items, self.params = items, items.params
        self.networks = load_networks(items.replicate)
        evaluation, strengths = self.params.evaluation, self.params.guidance.strength
        self.evaluated = [
            Evaluation(network, strength, "sweep", seed)
            for network in self.networks
            for strength in strengths
            for seed in items.first_seeds(0, evaluation.seed_blocks)
        ]

    def evaluate(self) -> pd.DataFrame:
        """The table: one row per metric, for each network, guidance strength and seed block."""
        rows = self.items.complete(self.evaluated)
        if self.params.evaluation.confirm:
            rows += self.items.complete(self._confirmations(pd.DataFrame(rows)))
        self.items.progress.close()
        return pd.DataFrame(rows)

    def _confirmations(self, table: pd.DataFrame) -> list[Evaluation]:
        """The best networks of the sweep, on the seeds after those of the sweep."""
        networks, blocks = {n.name: n for n in self.networks}, self.params.evaluation.seed_blocks
        return [
            Evaluation(networks[best["network"]], float(best["guidance"]), "fresh", seed)
            for best in best_unguided_and_guided(table)
            for seed in self.items.first_seeds(blocks, blocks)
        ]


def log_curves(context: StageContext, table: pd.DataFrame) -> None:
    """Log the EMA curves of all metrics, the metrics of the best network, and its figures."""
    from edm2.reporting.curves import draw_ema_curves  # others draw none

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
