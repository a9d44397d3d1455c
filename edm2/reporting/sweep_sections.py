"""Sections of the report's page for sweeps over training time, single tensors and guidance."""

from pathlib import Path

import pandas as pd

from edm2.reporting.grids import grid_name
from edm2.reporting.page import Section, picture, table
from edm2.reporting.selection import best_unguided_and_guided, value_in_words
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.sweeps import (
    draw_curves,
    draw_heat_map,
    guidance_curves,
    minima,
    tensor_curves,
    time_curves,
)
from edm2.reporting.tables import write_table


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
    figure = folder / f"sweeps/{by}.png"
    draw_curves(curves, by, figure)
    table_of_minima = minima(curves, by)
    write_table(table_of_minima, folder / f"sweeps/{by}.csv")
    return [(heading, picture(figure, caption) + table(table_of_minima))]


def guidance_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """EMA length against guidance strength, and samples of the best guided network."""
    curves = guidance_curves(outputs.networks)
    caption = "EMA curves at several guidance strengths (as EDM2 Figure 6)."
    sections = _sweep_section("Guidance", curves, "guidance", caption, folder)
    if not sections:
        return []
    heat_map = folder / "sweeps/guidance_map.png"
    draw_heat_map(curves, heat_map)
    ((heading, body),) = sections
    body += picture(heat_map, "The same as a heat map; darker is better.")
    return [(heading, body + _guided_samples(outputs))]


def _guided_samples(outputs: StageOutputs) -> str:
    pictures = ""
    for config, part in outputs.networks.groupby("config"):
        for best in best_unguided_and_guided(part):
            strength = best["guidance"]
            if strength == 1:
                continue
            caption = (
                f"Config {config} with guidance strength w = {strength:g} at EMA length "
                f"{best['ema_length']:.3g}: {value_in_words(best)}."
            )
            grid = (
                outputs.folder
                / f"samples/{config}-{best['training_seed']}"
                / grid_name(best["network"], strength)
            )
            pictures += picture(grid, caption, sharp=True)
    return pictures
