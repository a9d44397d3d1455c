"""Corrupted values of every field of params.yaml: refused with a sentence, or what stages can take.

`make faults` tries all of them, `make test` a sample.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import corrupted_stages
import pytest
from corrupted_params import cases, load
from corrupted_stages import LOAD_SECONDS
from guarded import ended
from tiny import ROOT

BASES = pytest.mark.parametrize("base", ["tiny", "rich"])
SAMPLE, RICH = 150, 4000


def failures(outcomes):
    """What is no refusal in a sentence, by case."""
    return {str(case): how for case, how in outcomes if how not in ("accepted", "refused")}


@pytest.mark.slow
@BASES
def test_a_sample_is_refused_with_a_sentence_or_accepted(root: Path, base: str) -> None:
    outcomes = list(ended(random.Random(1).sample(cases(base), SAMPLE), load, LOAD_SECONDS))
    assert failures(outcomes) == {}
    assert {how for _, how in outcomes} == {"accepted", "refused"}


@pytest.mark.faults
@BASES
def test_every_value_is_refused_with_a_sentence_or_accepted(root, record, base):
    chosen = cases(base)
    if base == "rich":  # which repeats most of the fields
        chosen = random.Random(1).sample(chosen, RICH)
    outcomes = list(ended(chosen, load, LOAD_SECONDS))
    counts = Counter(how for _, how in outcomes)
    record(f"| params ({base}), loaded | {len(outcomes)} | {dict(counts)} |")
    assert failures(outcomes) == {}
    assert len(outcomes) == len(chosen)


@pytest.mark.faults
def test_accepted_values_run_or_are_refused_in_every_stage(root, record):
    """A stage that still computes at the guard's end was asked to: a training may be as long as it likes."""
    command = [sys.executable, corrupted_stages.__file__, root]
    folders = (ROOT, ROOT / "tests", ROOT / "tests/faults")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith('["smaller')]
    outcomes = [json.loads(line) for line in lines]
    counts = Counter(how for _, how in outcomes)
    record(f"| params, accepted, all stages | {len(outcomes)} | {dict(counts)} |")
    assert len(outcomes) > 10
    failed = failures(outcomes)
    assert {case: how for case, how in failed.items() if how != "still computing"} == {}
