"""Corrupted values of every field of params.yaml: refused with a sentence, or what stages can take.

`make faults` tries all of them, `make test` a sample.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
from corrupted_params import STAGE_SECONDS, cases, ended, load, run_stages

BASES = pytest.mark.parametrize("base", ["tiny", "rich"])
SAMPLE, RICH = 150, 4000
RUN = 20  # accepted values that run through all stages


def failures(outcomes):
    """What is no refusal in a sentence, by case."""
    return {str(case): how for case, how in outcomes if how not in ("accepted", "refused")}


@pytest.mark.slow
@BASES
def test_a_sample_is_refused_with_a_sentence_or_accepted(root: Path, base: str) -> None:
    outcomes = list(ended(random.Random(1).sample(cases(base), SAMPLE), load))
    assert failures(outcomes) == {}
    assert {how for _, how in outcomes} == {"accepted", "refused"}


@pytest.mark.faults
@BASES
def test_every_value_is_refused_with_a_sentence_or_accepted(root, record, base):
    chosen = cases(base)
    if base == "rich":  # which repeats most of the fields
        chosen = random.Random(1).sample(chosen, RICH)
    outcomes = list(ended(chosen, load))
    counts = Counter(how for _, how in outcomes)
    record(f"| params ({base}), loaded | {len(outcomes)} | {dict(counts)} |")
    assert failures(outcomes) == {}
    assert len(outcomes) == len(chosen)


@pytest.mark.faults
def test_accepted_values_run_or_are_refused_in_every_stage(root, tiny, tmp_path, record):
    """A stage that still works at the guard's end was asked to: a training may be as long as it likes."""
    candidates = random.Random(1).sample(cases("smaller"), 30 * RUN)
    accepted = [case for case, how in ended(candidates, load) if how == "accepted"][:RUN]
    assert len(accepted) == RUN
    outcomes = list(ended(accepted, lambda case: run_stages(case, tiny, tmp_path), STAGE_SECONDS))
    counts = Counter(how for _, how in outcomes)
    record(f"| params, accepted, all stages | {len(outcomes)} | {dict(counts)} |")
    assert {case: how for case, how in failures(outcomes).items() if how != "hang"} == {}
