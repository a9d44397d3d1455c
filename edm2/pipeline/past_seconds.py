"""What past runs of this project took."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from edm2.params import Params, UserError
from edm2.pipeline.declaration import PIPELINE, read_declarations
from edm2.runtime.state import State

STATE = Path(".state")


def past_seconds(params: Params) -> dict[str, float]:
    """Mean seconds of complete runs with these params in this project, by stage, like fid@G.

    Seeds, code, inputs and `launch` may have been others. Runs of which a launch was killed are not counted.
    """
    if not (STATE.is_dir() and PIPELINE.is_file()):
        return {}
    found: dict[str, list[float]] = {}
    for stage, declared in read_declarations().items():
        for config in params.configs if declared.per_training else ("",):
            values = declared.values(params.of(config) if config else params)
            name = f"{stage}@{config}" if config else stage
            folders = re.compile(
                rf"{re.escape(stage)}-{re.escape(config)}-\d+" if config else stage
            )
            found[name] = list(_seconds(folders, json.loads(json.dumps(values))))
    return {name: fmean(seconds) for name, seconds in found.items() if seconds}


def _seconds(name: re.Pattern[str], params: object) -> Iterator[float]:
    """Of the complete runs whose stage and training have a name, with these values of params."""
    for folder in STATE.iterdir():
        if name.fullmatch(folder.name):
            for path in folder.glob("*/notes.json"):
                try:
                    notes = State(path.parent).read_notes()
                except UserError as error:
                    print(f"note: not counted: {error}", file=sys.stderr)
                    continue
                complete = "result_bytes" in notes and notes.get("params") == params
                if complete and notes.get("seconds") is not None:
                    yield notes["seconds"]
