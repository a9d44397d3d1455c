"""Combinations with `sweep.search` that cannot work."""

from collections.abc import Iterator
from itertools import pairwise

from edm2.params.ema import MIN_STRENGTHS, PILOT_BLOCKS, SearchRange
from edm2.params.errors import Problem
from edm2.params.tree import Params

LONGEST = 0.28  # the plain mean over a training has 0.2887
FINEST = 0.0005  # EMA lengths of a search have four decimals


def search_problems(params: Params) -> Iterator[Problem]:
    """A range without lengths, and what a search does not evaluate."""
    search, sweep = params.sweep.search, params.sweep
    if search is None:
        return
    yield from _range_problems(search)
    if sweep.materialize:
        yield Problem(
            "sweep.materialize",
            True,
            "false with sweep.search, whose networks are not known before it",
            "They are made from the snapshots where they are used.",
        )
    for key, value in (("sweep.nimg", sweep.nimg), ("sweep.tensors", sweep.tensors)):
        if value:
            yield Problem(
                key,
                list(value),
                "null or [] with sweep.search, which is over whole networks at the end of training",
                "Set sweep.search to null to sweep a grid.",
            )
    if params.evaluation.seed_blocks < PILOT_BLOCKS:
        yield Problem(
            "evaluation.seed_blocks",
            params.evaluation.seed_blocks,
            f"at least {PILOT_BLOCKS} with sweep.search: the most seed blocks that it may use",
            "For example 100, with evaluation.samples: 1000.",
        )
    strengths = params.guidance.strength
    if 1 < len(strengths) < MIN_STRENGTHS or any(b <= a for a, b in pairwise(strengths)):
        yield Problem(
            "guidance.strength",
            list(strengths),
            f"one strength, or {MIN_STRENGTHS} or more in ascending order, with sweep.search",
            "Several are searched together with the EMA length, from the first to the last one.",
        )


def _range_problems(search: SearchRange) -> Iterator[Problem]:
    low, high, tolerance = search.low, search.high, search.tolerance
    if not low < high:
        yield Problem(
            "sweep.search.low",
            low,
            f"a value below sweep.search.high ({high})",
            "For example 0.01.",
        )
        return
    if high > LONGEST:
        yield Problem(
            "sweep.search.high",
            high,
            f"at most {LONGEST}",
            "The plain mean over a training has the EMA length 0.2887.",
        )
    if not FINEST <= tolerance < (high - low) / 2:
        yield Problem(
            "sweep.search.tolerance",
            tolerance,
            f"from {FINEST} to less than half of the range ({(high - low) / 2:.3g})",
            "For example 0.005.",
        )
