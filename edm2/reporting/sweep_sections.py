"""Sections of the report's page for sweeps over training time, single tensors and guidance."""

from pathlib import Path

import pandas as pd

from edm2.reporting.grids import grid_name
from edm2.reporting.page import Section, collapsed, picture, table
from edm2.reporting.sections import MEANS
from edm2.reporting.selection import best_unguided_and_guided, value_in_words
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.sweeps import (
    guidance_curves,
    heat_maps,
    minima,
    sweep_panels,
    tensor_curves,
    time_curves,
)
from edm2.reporting.tables import write_table
from edm2.reporting.time_charts import shown_panels, write_panels
from edm2.reporting.trainings import by_training


def time_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """EMA curves at several training times."""
    curves = time_curves(outputs.networks)
    caption = "EMA curves at several training times (as EDM2 Figure 5c)."
    return _sweep_section("Training time", curves, "nimg", caption, folder)


def tensors_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """EMA curves of single tensors."""
    curves = tensor_curves(outputs.networks)
    caption = "EMA length of some tensors varied, all others fixed (as EDM2 Figure 5b)."
    return _sweep_section("Per-tensor EMA length", curves, "tensors", caption, folder)


def _sweep_section(
    heading: str, curves: pd.DataFrame, by: str, caption: str, folder: Path
) -> list[Section]:
    """Curves and the table of their minima; nothing if there was no such sweep."""
    if curves.empty:
        return []
    panels = sweep_panels(curves, by)
    write_panels(panels, folder / f"sweeps/{by}.png", columns=1)
    if curves["training_seed"].nunique() > 1:
        caption += MEANS
    table_of_minima = minima(curves, by)
    write_table(table_of_minima, folder / f"sweeps/{by}.csv")
    return [(heading, shown_panels(panels, caption) + table(table_of_minima))]


def guidance_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """EMA length against guidance strength, and samples of the best guided network."""
    curves = guidance_curves(outputs.networks)
    caption = "EMA curves at several guidance strengths (as EDM2 Figure 6)."
    sections = _sweep_section("Guidance", curves, "guidance", caption, folder)
    if not sections:
        return []
    maps = heat_maps(curves)
    write_panels(maps, folder / "sweeps/guidance_map.png", columns=1)
    ((heading, body),) = sections
    of = ", of the means over trainings" if outputs.several_trainings else ""
    body += shown_panels(maps, f"The same as a heat map{of}; darker is better.")
    return [(heading, body + _guided_samples(outputs))]


def _guided_samples(outputs: StageOutputs) -> str:
    """Samples of the best guided network of each config's first training; the others are collapsed."""
    body = ""
    for config, trainings in by_training(outputs.networks).items():
        first, *others = (_guided_grids(outputs, rows) for rows in trainings.values())
        body += first
        if any(others):
            body += collapsed(f"Config {config}, guided: its other trainings", "".join(others))
    return body


def _guided_grids(outputs: StageOutputs, networks: pd.DataFrame) -> str:
    """Samples of the best guided network of one training, if it has any."""
    pictures = ""
    for best in best_unguided_and_guided(networks):
        if best["guidance"] == 1:
            continue
        name = outputs.training_name(best["config"], best["training_seed"])
        caption = (
            f"{name[0].upper()}{name[1:]} with guidance strength w = {best['guidance']:g} at EMA length "
            f"{best['ema_length']:.3g}: {value_in_words(best)}."
        )
        samples = outputs.samples(best["config"], best["training_seed"])
        grid = samples / grid_name(best["network"], best["guidance"])
        pictures += picture(grid, caption, sharp=True)
    return pictures
