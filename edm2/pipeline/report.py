"""The stage `report`."""

from pathlib import Path

from edm2.pipeline.runner import StageContext
from edm2.reporting.report import write_report
from edm2.reporting.stage_outputs import StageOutputs
from edm2.runtime.manifest import write_manifest

ARTIFACTS = (
    "index.html",
    "ema_curves.png",
    "ablation.csv",
    "training.png",
    "magnitudes.png",
    "updates.png",
)


def report(context: StageContext) -> None:
    """Write tables, figures and index.html; log the main ones to MLflow."""
    folder = context.out("reports/index.html").parent
    write_report(StageOutputs(Path("reports"), context.params.replicates), folder)
    write_manifest(folder / "sweeps")  # without sweeps a folder with no file, of which DVC warns
    for name in ARTIFACTS:
        context.run.log_artifact(folder / name)
