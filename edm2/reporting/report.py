"""The report: from the outputs of the other stages to tables, figures and one page."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from edm2.reporting.facts import Facts, facts_header
from edm2.reporting.headline import headline
from edm2.reporting.page import Section, render
from edm2.reporting.samples_section import samples_section
from edm2.reporting.sections import (
    ablation_section,
    baselines_section,
    ema_section,
    networks_section,
    vae_section,
)
from edm2.reporting.selection import metrics_of
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.sweep_sections import guidance_section, tensors_section, time_section
from edm2.reporting.training_sections import dynamics_section, training_section
from edm2.reporting.trainings import by_training, mean_and_interval
from edm2.reporting.verdict_section import verdict_section
from edm2.runtime.files import write_json, write_text

SECTIONS: tuple[Callable[[StageOutputs, Path], list[Section]], ...] = (
    verdict_section,
    ema_section,
    ablation_section,
    time_section,
    tensors_section,
    guidance_section,
    samples_section,
    baselines_section,
    vae_section,
    training_section,
    dynamics_section,
    networks_section,
)


def write_report(outputs: StageOutputs, folder: Path, facts: Facts) -> None:
    """Write index.html, metrics.json, and all tables (csv, md) and figures (png, svg)."""
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)  # an out of the stage, empty or not
    sections = [section for write in SECTIONS for section in write(outputs, folder)]
    write_json(folder / "metrics.json", _summary(outputs))
    introduction = headline(outputs) + facts_header(facts)
    write_text(folder / "index.html", render("EDM2 report", sections, introduction))


def _summary(outputs: StageOutputs) -> dict[str, float]:
    """The metrics of the stages, and those of the best network of each config.

    Of several trainings: means over them, and the interval of the main metric.
    """
    summary = {
        f"{stage}/{key}": value
        for stage in ("vae", "baselines", "features")
        for key, value in outputs.metrics(stage).items()
    }
    for config, trainings in by_training(outputs.networks).items():
        best, name = outputs.best_networks[config], f"{config}/best"
        pairs = zip(trainings.values(), best.iterrows(), strict=True)
        metrics = pd.DataFrame([metrics_of(rows, network) for rows, (_, network) in pairs])
        means = metrics.mean(skipna=False)
        summary |= {f"{name}/{key}": float(value) for key, value in means.items()}
        summary[f"{name}/ema_length"] = float(best["ema_length"].mean())
        if len(best) > 1:
            _, low, high = mean_and_interval(best["value"].tolist())
            metric = best["metric"].iloc[0]
            summary |= {f"{name}/{metric}/low": low, f"{name}/{metric}/high": high}
    return summary
