"""The stage `report`."""

from collections.abc import Mapping
from pathlib import Path

from edm2.params.errors import UserError
from edm2.pipeline.best_model import log_best_model
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.run_facts import run_facts
from edm2.pipeline.runner import StageContext
from edm2.reporting.reading import read_metrics
from edm2.reporting.report import write_report
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.trainings import mean_and_interval
from edm2.runtime.manifest import load_manifest, write_manifest
from edm2.runtime.tracking import NOTE

ARTIFACTS = (
    "index.html",
    "verdict.csv",
    "forest.png",
    "ema_curves.png",
    "ablation.csv",
    "training.png",
    "magnitudes.png",
    "updates.png",
)


def report(context: StageContext) -> None:
    """Write tables, figures and index.html; log the main ones, the best networks and verdicts to MLflow."""
    folder = context.out("reports/index.html").parent
    data = load_manifest(IMAGES)
    outputs = StageOutputs(Path("reports"), context.params.replicates, data["classes"])
    write_report(outputs, folder, run_facts(context.params, data, context.device))
    write_manifest(folder / "sweeps")  # without sweeps a folder with no file, of which DVC warns
    metrics = read_metrics(folder / "metrics.json")
    context.run.log_summary(best_by_config(metrics))
    for name in ARTIFACTS:
        context.run.log_artifact(folder / name)
    context.conclude("open reports/index.html")
    note = "\n\n".join(filter(None, (sentences(outputs), values(outputs))))
    context.run.set_note(note)
    context.run.log_to_pipeline(main_metrics(outputs, metrics), {NOTE: note})
    log_best_model(context)


def best_by_config(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the best networks of each config; G/best/fd/low is G/fd_low in MLflow, where stores of
    files can have no metric in another one.
    """
    best = {}
    for name, value in metrics.items():
        config, *kind = name.split("/")
        if kind[:1] == ["best"]:
            best[f"{config}/{'_'.join(kind[1:])}"] = value
    return best


def main_metrics(outputs: StageOutputs, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics by which pipeline runs are compared: those of each config, and, under names that all
    pipeline runs have, those of the best config.
    """
    by_config = best_by_config(metrics)
    best = outputs.best_networks
    winner = min(best, key=lambda config: float(best[config]["value"].mean()))
    of_winner = {
        name.removeprefix(f"{winner}/"): value
        for name, value in by_config.items()
        if name.startswith(f"{winner}/")
    }
    others = by_config if len(best) > 1 else {}
    return {f"best/{name}": value for name, value in (of_winner | others).items()}


def values(outputs: StageOutputs) -> str:
    """A line for each config: the main metric of its best networks, and their EMA length."""
    lines = []
    for config, best in outputs.best_networks.items():
        mean, low, high = mean_and_interval(best["value"].tolist())
        interval = f" (95 % interval {low:.4g} to {high:.4g})" if len(best) > 1 else ""
        length = best["ema_length"].mean()
        metric = best["metric"].iloc[0]
        lines.append(f"- Config {config}: {metric} {mean:.4g}{interval} at EMA length {length:.3g}")
    return "\n".join(lines)


def sentences(outputs: StageOutputs) -> str:
    """What each step from a config to the next one changes; empty with one config."""
    try:
        steps = outputs.steps
    except UserError as error:  # trainings that were evaluated differently
        return str(error)
    return "\n\n".join(f"At {step.where}: {step.sentence}" for step in steps)
