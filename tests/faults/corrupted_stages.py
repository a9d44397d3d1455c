"""Prints what becomes of accepted values in all stages: `python corrupted_stages.py FOLDER`.

In a process of its own, which draws no chart itself: V8 hangs in forks of one that has.
"""

import json
import random
import shutil
import sys
from pathlib import Path

from corrupted_params import SMALLER, Case, cases, ends, load
from guarded import ended
from tiny import PER_CONFIG, STAGES, entered, make_project, run_stage, write_params

from edm2.runtime.failures import report

LOAD_SECONDS, STAGE_SECONDS = 10, 60
CANDIDATES = 400  # of which some 30 are accepted, and run through the stages


def run_stages(case: Case, finished: Path, folder: Path) -> str:
    """Run all stages in a copy of a finished project, of which those that the value affects work again."""
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(finished, project, symlinks=True)
    write_params(project / "params.yaml", case.changes())
    return run_all(project)


def run_all(project: Path) -> str:
    """Run all stages, or all before the one that refuses the params."""
    with entered(project):
        for name in STAGES:
            try:
                run_stage(name, "G" if name in PER_CONFIG else "")
            except Exception as error:
                if report(name, error) != 2:
                    raise
                return "refused"
    return "accepted"


def main(folder: Path) -> None:
    """Print a line of JSON for each."""
    chosen = random.Random(1).sample([*ends("smaller"), *cases("smaller")], CANDIDATES)
    accepted = [
        case for case, outcome in ended(chosen, load, LOAD_SECONDS) if outcome == "accepted"
    ]
    finished = folder / "finished"
    make_project(finished, SMALLER)
    ((_, made),) = ended(accepted[:1], lambda case: run_all(finished), STAGE_SECONDS)
    assert made == "accepted", made
    for case, outcome in ended(
        accepted, lambda case: run_stages(case, finished, folder), STAGE_SECONDS
    ):
        print(json.dumps([str(case), outcome]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
