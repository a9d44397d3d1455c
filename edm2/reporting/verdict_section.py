"""The section of the report's page that answers whether each config is better than the one before it."""

from pathlib import Path

from edm2.params.errors import UserError
from edm2.reporting.changes import Experiment
from edm2.reporting.curves import draw_placeholder
from edm2.reporting.forest import draw_forest
from edm2.reporting.page import Section, paragraph, picture, table
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.tables import write_table
from edm2.reporting.verdict import Verdict, verdict_table, verdicts

HEADING = "Does it help?"
NOTE = (
    "Each config is compared with the one before it: negative differences are improvements. Intervals of "
    "95 % are over trainings, by Student's t; p-values are corrected for the number of steps (Holm)."
)


def verdict_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """What each step from a config to the next one changes, if there are several configs."""
    steps: list[Verdict] = []
    reason = "one config: no step to judge"
    if several := outputs.networks["config"].nunique() > 1:
        try:
            steps = verdicts({"": Experiment(outputs.networks, {}, {})})
        except UserError as error:  # trainings that were evaluated differently still have a report
            reason = str(error)
    figures = folder / "verdict.svg", folder / "verdict.png"
    if steps:
        draw_forest(steps, *figures)
    else:
        draw_placeholder(None, *figures, text="no steps to judge")
    judged = verdict_table(steps)
    write_table(judged, folder / "verdict.csv")
    if not several:
        return []
    if not steps:
        return [(HEADING, paragraph(reason))]
    sentences = "".join(paragraph(f"At {step.where}: {step.sentence}") for step in steps)
    caption = "Difference that each step makes, with its 95 % interval; left of zero is better."
    body = table(judged) + sentences + paragraph(NOTE) + picture(figures[0], caption)
    return [(HEADING, body)]
