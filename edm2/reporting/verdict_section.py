"""The section of the report's page that answers whether each config is better than the one before it."""

from pathlib import Path

from edm2.params.errors import UserError
from edm2.reporting.charts import placeholder_chart, write_chart
from edm2.reporting.comparison_page import answers
from edm2.reporting.page import Section
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.verdict import Verdict

STEPS = "Each config is compared with the one before it. All columns are in verdict.csv."


def verdict_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """What each step from a config to the next one changes, if there are several configs."""
    steps: list[Verdict] = []
    notes = [STEPS]
    if several := outputs.networks["config"].nunique() > 1:
        try:
            steps = outputs.steps
        except UserError as error:  # trainings that were evaluated differently still have a report
            notes = [str(error)]
    body = answers(steps, notes, folder)
    if not steps:  # outs of the stage
        figures = folder / "forest.png", folder / "forest.svg"
        write_chart(placeholder_chart("no steps from one config to another"), *figures)
    return [("Does it help?", body)] if several else []
