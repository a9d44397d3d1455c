"""What a training uses: the paper's values for config and size, and params where they say so."""

from dataclasses import dataclass
from math import isinf
from typing import TypeVar

from edm2.diffusion.ladder import LADDER
from edm2.diffusion.sizes import SIZES
from edm2.params.diffusion import Diffusion, Letter

T = TypeVar("T")


@dataclass(frozen=True)
class Hyperparameters:
    """See `edm2.diffusion.ladder.Ladder` for the meanings."""

    p_mean: float
    p_std: float
    lr_ref: float
    lr_decay_batches: float
    lr_rampup_nimg: int
    adam_beta2: float
    loss_scaling: float


def hyperparameters(config: Letter, params: Diffusion) -> Hyperparameters:
    """null in params stands for the paper's value.

    A config of constant learning rate keeps it constant: lr_decay_batches says when the rate
    falls, not whether.
    """
    ladder = LADDER[config]
    paper_lr = ladder.lr_ref
    if params.size is not None and ladder.weight_norm != "none":
        paper_lr = SIZES[params.size].lr_ref  # sizes are tuned for magnitude-preserving layers
    decays = not isinf(ladder.lr_decay_batches)

    return Hyperparameters(
        p_mean=_pick(params.p_mean, ladder.p_mean),
        p_std=_pick(params.p_std, ladder.p_std),
        lr_ref=_pick(params.lr_ref, paper_lr),
        lr_decay_batches=_pick(
            params.lr_decay_batches if decays else None, ladder.lr_decay_batches
        ),
        lr_rampup_nimg=_pick(params.lr_rampup_nimg, ladder.lr_rampup_nimg),
        adam_beta2=_pick(params.adam_beta2, ladder.adam_beta2),
        loss_scaling=ladder.loss_scaling,
    )


def _pick(value: T | None, paper: T) -> T:
    return paper if value is None else value
