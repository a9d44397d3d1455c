"""The report: from the stages' files to tables, figures and one page."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from edm2.reporting.curves import (
    best_of,
    draw_ema_curves,
    draw_nothing,
    draw_training,
    draw_vae,
    ema_curve,
    metrics_of,
)
from edm2.reporting.dynamics import draw_magnitudes, draw_updates, dynamics_table
from edm2.reporting.page import render, table
from edm2.reporting.sections import (
    ablation_section,
    baselines_section,
    ema_section,
    guidance_section,
    samples_section,
    sweep_sections,
    trained_sections,
    vae_section,
)
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.tables import ablation_table, as_markdown, baseline_table, ema_table
from edm2.runtime.files import write_json, write_text


def write_report(findings: StageOutputs, folder: Path) -> None:
    """Write index.html, metrics.json, and its tables (csv, md) and figures (png, svg)."""
    networks, vae, training = findings.networks, findings.metrics("vae"), findings.training
    features, baselines = findings.metrics("features"), findings.metrics("baselines")
    ablation, curve = ablation_table(networks), ema_table(networks)
    write_text(folder / "ablation.csv", ablation.to_csv(index=False))
    write_text(folder / "ablation.md", as_markdown(ablation))
    write_text(folder / "networks.csv", curve.to_csv(index=False))
    curve_alone = ema_table(ema_curve(networks))
    write_text(folder / "ema_curves.csv", curve_alone.to_csv(index=False))
    write_text(folder / "ema_curves.md", as_markdown(curve_alone))
    draw_ema_curves(networks, folder / "ema_curves.png", folder / "ema_curves.svg")
    for name, draw in (
        ("training", draw_training),
        ("magnitudes", draw_magnitudes),
        ("updates", draw_updates),
    ):
        (draw if training else draw_nothing)(training, folder / f"{name}.png")
    dynamics = dynamics_table(training)
    write_text(folder / "dynamics.csv", dynamics.to_csv(index=False))
    curves = pd.read_csv(findings.folder / "vae/curves.csv")
    (draw_vae if len(curves) else draw_nothing)(curves, folder / "vae.png")
    write_json(
        folder / "metrics.json",
        _summary(networks, {"vae": vae, "baselines": baselines, "features": features}),
    )
    sections = [
        ("EMA length", ema_section(networks, folder)),
        ("Ablation", ablation_section(ablation)),
        *sweep_sections(networks, folder / "sweeps"),
        *guidance_section(findings, networks, folder / "sweeps"),
        ("Samples", samples_section(findings, networks)),
        ("How good is that?", baselines_section(baseline_table(networks, baselines), features)),
        ("Autoencoder", vae_section(findings, vae, curves.empty, folder)),
        *trained_sections(training, dynamics, folder),
        ("All networks", table(curve)),
    ]
    write_text(
        folder / "index.html", render("EDM2: does it help, and at which EMA length?", sections)
    )


def _summary(networks: pd.DataFrame, stages: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """What stages measured, and the best network of each config."""
    found = {
        f"{stage}/{key}": value
        for stage, metrics in stages.items()
        for key, value in metrics.items()
    }
    for config, part in networks.groupby("config"):
        best = best_of(part)
        found |= {f"{config}/best/{k}": value for k, value in metrics_of(part, best).items()}
        found[f"{config}/best/ema_length"] = float(best["ema_length"])
    return found
