"""The measures that params may ask for, on collected features."""

from dataclasses import dataclass

import torch

from edm2.metrics.collection import Collection
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbours import precision, recall
from edm2.metrics.statistics import distance
from edm2.params import UserError
from edm2.params.evaluation import Evaluation, Measure


@dataclass(frozen=True)
class Measured:
    """A number, how sure it is (where that is known), and of how many training images."""

    value: float
    reference: int
    standard_error: float | None = None
    singular: bool = False  # a covariance of no more images than dimensions went into it


def measured(
    measure: Measure,
    generated: Collection,
    reference: Collection,
    count: int,
    params: Evaluation,
    device: torch.device,
) -> Measured:
    """The first `count` generated images beside the training images.

    The Fréchet distance compares with all training images; the others, which look at pairs, with as
    many as are generated (or all, where there are fewer).

    Raises:
        UserError: too few images on either side.
    """
    (total,) = reference.moments
    if measure == "fd":
        ours, theirs = generated.moments[count], reference.moments[total]
        value = distance(ours, theirs, params.allow_singular)
        return Measured(value, total, singular=ours.singular or theirs.singular)
    others, least = min(count, total), params.least_samples(measure, generated.dims)
    if min(count, others) < least:
        raise UserError(f"{measure} of {count} generated and {others} training images: expected at "
                        f"least {least} of each. Use more, or leave it out of "
                        "evaluation.measures.")  # fmt: skip
    a, b = generated.features(count), reference.features(others)
    if measure == "kid":
        value, error = kernel_distance(a, b, device)
        return Measured(value, others, standard_error=error)
    share = precision if measure == "precision" else recall
    return Measured(share(a, b, params.neighbours, device), others)
