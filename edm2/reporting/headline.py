"""The first sentence of the report: what came out, for readers who do not know the paper."""

import html
import math
from collections.abc import Sequence

import pandas as pd

from edm2.params.errors import UserError
from edm2.reporting.selection import SAME_IMAGES
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.trainings import half_width, mean_and_interval
from edm2.reporting.verdict import Verdict


def headline(outputs: StageOutputs) -> str:
    """One sentence in HTML, and a second one with what must be known to trust it."""
    best = outputs.best_networks
    text = ladder_sentence(outputs) if len(best) > 1 else config_sentence(*next(iter(best.items())))
    cautions = " ".join(_cautions(outputs))
    body = f'<p class="verdict">{html.escape(text)}</p>'
    return body + (f'<p class="caution">{html.escape(cautions)}</p>' if cautions else "")


def config_sentence(config: str, best: pd.DataFrame) -> str:
    """The best EMA length of one config, with its value.

    Args:
        best: the best network of each of its trainings.
    """
    length = best["ema_length"].mean()
    value = f"a Fréchet distance to real images of {value_with_interval(best)}; lower is better"
    if (best["average"] == "traditional").all():
        return (
            f"Config {config} reaches {value}, with the one EMA length that it has, {length:.3g}."
        )
    return (
        f"Config {config} makes its best images with an EMA length of {length:.3g}, that is, with weights "
        f"averaged over about {length:.0%} of the training: {value}."
    )


def ladder_sentence(outputs: StageOutputs) -> str:
    """Which steps from each config to the next one help, and which config is best."""
    best = outputs.best_networks
    try:
        steps = [step for step in outputs.steps if step.ema_length == "own best"]
    except UserError:
        return (
            "The trainings were evaluated differently, so that configs cannot be compared: see the section "
            "“Does it help?”."
        )
    values = {config: rows["value"].mean() for config, rows in best.items()}
    winner = min(values, key=values.__getitem__)
    return (
        f"{_count(steps)}; the lowest Fréchet distance to real images is that of config {winner}: "
        f"{value_with_interval(best[winner])} at an EMA length of {best[winner]['ema_length'].mean():.3g}."
    )


def _count(steps: Sequence[Verdict]) -> str:
    """Steps by what is known of them."""
    better: list[str] = []
    worse: list[str] = []
    unsettled: list[str] = []
    for step in steps:
        settled = better if step.effect.difference < 0 else worse
        (settled if step.effect.settled else unsettled).append(f"{step.base} → {step.change}")
    parts = [
        f"{len(kind)} {verb} ({', '.join(kind)})"
        for kind, verb in (
            (better, "improves the images" if len(better) == 1 else "improve the images"),
            (worse, "makes them worse" if len(worse) == 1 else "make them worse"),
            (unsettled, "is not settled" if len(unsettled) == 1 else "are not settled"),
        )
        if kind
    ]
    counted = "one step" if len(steps) == 1 else f"{len(steps)} steps"
    return f"Of {counted} from a config to the next one, {', '.join(parts)}"


def value_with_interval(best: pd.DataFrame) -> str:
    """The mean value of the best networks, its interval, and what it is of.

    The interval of several trainings is over these; that of one is over its seed blocks.
    """
    first = best.iloc[0]
    of = f"{first['metric']}, on {first['samples']:,.0f} generated images"
    if len(best) > 1:
        mean, low, high = mean_and_interval(best["value"].tolist())
        return (
            f"{mean:.4g} (95 % interval {low:.4g} to {high:.4g} over {len(best)} trainings; {of})"
        )
    blocks, value = int(first["seed_blocks"]), first["value"]
    if blocks == 1 or math.isnan(first["std"]):
        return f"{value:.4g} ({of} of one training; its interval is not known)"
    half = half_width(first["std"], blocks)
    return (
        f"{value:.4g} (95 % interval {value - half:.4g} to {value + half:.4g} over {blocks} seed blocks of "
        f"one training; {of} each)"
    )


def _cautions(outputs: StageOutputs) -> list[str]:
    """What makes the values mean less than they seem to."""
    best = pd.concat(outputs.best_networks.values())
    found = [
        f"Config {', '.join(dict.fromkeys(best[marks]['config']))}: {text}."
        for text, marks in doubts(best).items()
        if marks.any()
    ]
    if outputs.nonfinite_steps:
        found.append(f"Config {', '.join(outputs.nonfinite_steps)}: training was not finite.")
    if any(len(rows) == 1 for rows in outputs.best_networks.values()):
        found.append("One training of a config says nothing about others: train with more seeds.")
    return found


def doubts(best: pd.DataFrame) -> dict[str, pd.Series]:
    """What makes the value of a network mean less than it seems to, and of which rows that is true."""
    return {
        "the detector is at chance, so the distances mean little": best["at_chance"],
        "the distances are singular (too few images) and mean little": best["singular"],
        "the best EMA length is at the edge of the grid; a better one may lie outside": best[
            "at_edge"
        ],
        "the value is of the images that chose the EMA length, and so optimistic": best["valued_on"]
        == SAME_IMAGES,
    }
