"""The report: from the outputs of the other stages to tables, figures and one page."""

from collections.abc import Callable
from pathlib import Path

from edm2.reporting.facts import Facts, facts_header
from edm2.reporting.headline import headline
from edm2.reporting.latents_section import latents_section
from edm2.reporting.page import Section, render
from edm2.reporting.samples_section import samples_section
from edm2.reporting.sections import (
    ablation_section,
    baselines_section,
    ema_section,
    networks_section,
    vae_ema_section,
    vae_section,
)
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.summary import write_summary
from edm2.reporting.sweep_sections import guidance_section, tensors_section, time_section
from edm2.reporting.training_sections import dynamics_section, training_section
from edm2.reporting.verdict_section import verdict_section
from edm2.runtime.files import write_text

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
    vae_ema_section,
    latents_section,
    training_section,
    dynamics_section,
    networks_section,
)


def write_report(outputs: StageOutputs, folder: Path, facts: Facts) -> None:
    """Write index.html, the summary, and all tables (csv, md) and figures (png, svg)."""
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)  # an out of the stage, empty or not
    sections = [section for write in SECTIONS for section in write(outputs, folder)]
    write_summary(outputs, folder)
    introduction = headline(outputs) + facts_header(facts)
    write_text(folder / "index.html", render("EDM2 report", sections, introduction))
