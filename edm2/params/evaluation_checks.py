"""Combinations of `sampling` and `evaluation` that cannot work."""

from collections.abc import Iterator

from edm2.params.errors import Problem
from edm2.params.evaluation import Evaluation, Sampling
from edm2.params.tree import Params


def evaluation_problems(params: Params) -> Iterator[Problem]:
    """Noise levels that do not fall, and samples too few for a measure."""
    if params.sampling.sigma_min >= params.sampling.sigma_max:
        yield Problem("sampling.sigma_min", params.sampling.sigma_min,
                      f"a value below sampling.sigma_max ({params.sampling.sigma_max})",
                      "The paper has 0.002 and 80.")  # fmt: skip
    yield from _churn(params.sampling)
    yield from _measures(params.evaluation, params.features.dims)


def _measures(evaluation: Evaluation, dims: int) -> Iterator[Problem]:
    chosen, samples = evaluation.measures, evaluation.samples
    if "fd" not in chosen or len(set(chosen)) != len(chosen):
        yield Problem("evaluation.measures", list(chosen), "fd, and others, each once",
                      "The EMA curve is drawn of the Fréchet distance.")  # fmt: skip
    if samples < evaluation.least_samples("fd", dims):
        if evaluation.allow_singular:
            yield Problem("evaluation.samples", samples, "two or more: one has no covariance",
                          "Use more.")  # fmt: skip
        else:
            yield Problem("evaluation.samples", samples,
                          f"more than features.dims ({dims}): with fewer samples than dimensions "
                          "the covariance is singular", "Use at least twice as many, or have the "
                          "rows marked (evaluation.allow_singular).")  # fmt: skip
    for measure in (m for m in chosen if m != "fd"):
        least = evaluation.least_samples(measure, dims)
        if samples < least:
            yield Problem("evaluation.samples", samples, f"at least {least} for {measure}",
                          "Use more, or leave it out of evaluation.measures.")  # fmt: skip


def _churn(sampling: Sampling) -> Iterator[Problem]:
    if sampling.churn_interval is None:
        return
    low, high = sampling.churn_interval
    if low >= high:
        yield Problem("sampling.churn_interval", [low, high], "[low, high], low below high",
                      "null means all noise levels.")  # fmt: skip
    elif high < sampling.sigma_min or low > sampling.sigma_max:
        yield Problem("sampling.churn_interval", [low, high],
                      f"noise levels from sampling.sigma_min ({sampling.sigma_min}) to "
                      f"sampling.sigma_max ({sampling.sigma_max})",
                      "No step would add noise; null means all noise levels.")  # fmt: skip
