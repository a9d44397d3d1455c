"""The stage `report`."""

from collections.abc import Mapping
from pathlib import Path

from edm2.params.errors import UserError
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.run_facts import run_facts
from edm2.pipeline.runner import StageContext
from edm2.reporting.reading import read_metrics
from edm2.reporting.report import write_report
from edm2.reporting.stage_outputs import StageOutputs
from edm2.runtime.manifest import load_manifest, write_manifest

NOTE = "mlflow.note.content"  # tag of the description on a run's page in MLflow

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
    context.run.log_summary(best_by_config(read_metrics(folder / "metrics.json")))
    if note := sentences(outputs):
        context.run.set_tag(NOTE, note)
    for name in ARTIFACTS:
        context.run.log_artifact(folder / name)
    context.conclude("open reports/index.html")


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


def sentences(outputs: StageOutputs) -> str:
    """What each step from a config to the next one changes; empty with one config."""
    try:
        steps = outputs.steps
    except UserError as error:  # trainings that were evaluated differently
        return str(error)
    return "\n\n".join(f"At {step.where}: {step.sentence}" for step in steps)
