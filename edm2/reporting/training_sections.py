"""Sections of the report's page about the training of the denoisers."""

from pathlib import Path

import pandas as pd

from edm2.reporting.charts import placeholder_chart, write_chart
from edm2.reporting.dynamics import (
    BOUNDED,
    FLAT,
    dynamics_gaps,
    dynamics_table,
    magnitudes_panels,
    updates_panels,
)
from edm2.reporting.page import Section, paragraph, table
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.tables import write_table
from edm2.reporting.time_charts import THINNED, gaps_note, shown_panels, write_panels
from edm2.reporting.training_charts import NOT_TRAINED, training_gaps, training_panels
from edm2.reporting.trainings import listed
from edm2.runtime.log import NONFINITE_GRADIENTS

MAGNITUDES = (
    "Magnitudes by resolution of the network's blocks (as EDM2 Figures 3 and 15). Strong lines are means "
    "over output units, faint lines maxima; the decoder is dashed."
)
UPDATES = "Size of updates relative to the weights, with the same line styles."


def training_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Training curves, if any network was trained."""
    training, figure = outputs.training, folder / "training.png"
    zeroed = f"train/{NONFINITE_GRADIENTS}"
    if not training:
        write_chart(placeholder_chart(NOT_TRAINED), figure)
        note = "The networks are published ones; none was trained in this project."
        return [("Training", paragraph(note))]
    counts = "; ".join(
        f"{config} {listed([rows[zeroed].mean() for rows in trainings.values()])}"
        for config, trainings in training.items()
    )
    note = f"Non-finite gradient values set to zero, per step on average: {counts}."
    for config, mark in outputs.nonfinite_steps.items():
        note += f" Config {config}: the loss or gradients were not finite in {mark}."
    caption = "Training curves of the denoisers."
    if outputs.several_trainings:
        caption += " Thin lines are the trainings, strong lines their mean."
    caption += THINNED + gaps_note(training_gaps(training))
    panels = training_panels(training)
    write_panels(panels, figure, columns=3)
    return [("Training", shown_panels(panels, caption) + paragraph(note))]


def dynamics_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Magnitudes of activations, weights and updates, if any network was trained."""
    training = outputs.training
    dynamics = dynamics_table(training)
    write_table(dynamics, folder / "dynamics.csv")
    magnitudes, updates = magnitudes_panels(training), updates_panels(training)
    for panels, name in ((magnitudes, "magnitudes"), (updates, "updates")):
        without = placeholder_chart("not measured" if training else NOT_TRAINED)
        write_panels(panels or [without], folder / f"{name}.png", columns=4 if panels else 1)
    if not training:
        return []
    body = (
        shown_panels(magnitudes, MAGNITUDES + _lines_note(outputs, dynamics) + THINNED)
        + table(dynamics)
        + paragraph(_dynamics_note(dynamics))
        + shown_panels(updates, UPDATES + _lines_note(outputs, dynamics))
    )
    return [("Training dynamics", body)]


def _lines_note(outputs: StageOutputs, dynamics: pd.DataFrame) -> str:
    """Of how many trainings lines are, and where there is none."""
    training = outputs.training
    note = gaps_note(dynamics_gaps(training))
    if outputs.several_trainings:
        note = f" All lines are means over {max(map(len, training.values()))} trainings.{note}"
    measured = set(dynamics["config"]) if len(dynamics) else set()
    if missing := [config for config in training if config not in measured]:
        note += f" Not measured (diffusion.magnitudes_nimg): config {', '.join(missing)}."
    return note


def _dynamics_note(dynamics: pd.DataFrame) -> str:
    note = (
        "Magnitudes are root mean squares of output units, 1 for unit-normal data. Weights are flat "
        f"if the mean of every bucket ends within a factor {FLAT} of its first measurement. "
        f"Activations are bounded if the maximum of every bucket grows by less than a factor {BOUNDED} "
        "over the second half of training. The relative update is the effective learning rate."
    )
    return _agreement(dynamics) + note


def _agreement(dynamics: pd.DataFrame) -> str:
    """In which configs the observations agree with the paper's, as far as it has these configs."""
    sentences = ""
    for quantity in ("weights", "activations") if len(dynamics) else ():
        rows = dynamics[dynamics[f"{quantity}: paper"] != ""]
        observed = rows[f"{quantity}: observed"]
        agrees, differs = rows[f"{quantity}: paper"] == observed, observed.str.contains(",")
        for verb, part in (
            ("agree with the paper", rows[agrees]),
            ("disagree with the paper", rows[~agrees & ~differs]),
            ("differ between trainings", rows[differs]),
        ):
            if len(part):
                configs = ", ".join(part["config"])
                sentences += f"{quantity.capitalize()} {verb} in config {configs}. "
    return sentences
