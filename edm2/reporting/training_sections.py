"""Sections of the report's page about the training of the denoisers."""

from pathlib import Path

import pandas as pd

from edm2.reporting.curves import draw_placeholder, draw_training
from edm2.reporting.dynamics import BOUNDED, FLAT, draw_magnitudes, draw_updates, dynamics_table
from edm2.reporting.page import Section, paragraph, picture, table
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.tables import write_table
from edm2.reporting.trainings import listed
from edm2.runtime.log import NONFINITE_GRADIENTS


def training_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Training curves, if any network was trained."""
    training, figure = outputs.training, folder / "training.png"
    zeroed = f"train/{NONFINITE_GRADIENTS}"
    (draw_training if training else draw_placeholder)(training, figure)
    if not training:
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
    body = picture(figure, caption) + paragraph(note)
    return [("Training", body)]


def dynamics_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Magnitudes of activations, weights and updates, if any network was trained."""
    training = outputs.training
    dynamics = dynamics_table(training)
    write_table(dynamics, folder / "dynamics.csv")
    (draw_magnitudes if training else draw_placeholder)(training, folder / "magnitudes.png")
    (draw_updates if training else draw_placeholder)(training, folder / "updates.png")
    if not training:
        return []
    magnitudes = (
        "Magnitudes by bucket of the network (as EDM2 Figures 3 and 15). Strong lines are means over "
        "output units, faint lines maxima; the decoder is dashed."
    )
    updates = "Size of updates relative to the weights, with the same line styles."
    if outputs.several_trainings:
        means = f" All lines are means over {max(map(len, training.values()))} trainings."
        magnitudes, updates = magnitudes + means, updates + means
    body = (
        picture(folder / "magnitudes.png", magnitudes)
        + table(dynamics)
        + paragraph(_dynamics_note(dynamics))
        + picture(folder / "updates.png", updates)
    )
    return [("Training dynamics", body)]


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
