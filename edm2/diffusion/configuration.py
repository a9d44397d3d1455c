"""A config as it is run: the ladder's, the paper's for size and data set, and what params say."""

from collections.abc import Iterator
from dataclasses import replace
from math import isinf
from typing import Any

from edm2.diffusion.ladder import LADDER, Ladder
from edm2.diffusion.sizes import DATASETS, SIZES
from edm2.params import Params, UserError
from edm2.params.diffusion import Diffusion, Letter

NUMBERS = (
    "attention_resolutions",
    "dropout",
    "batch",
    "lr_ref",
    "lr_rampup_nimg",
    "adam_beta2",
    "p_mean",
    "p_std",
)


def configured(config: Letter, params: Diffusion) -> Ladder:
    """The config with all of its values settled; null in `params` stands for the paper's.

    A config of constant learning rate keeps it constant: lr_decay_batches says when the rate
    falls, not whether.
    """
    params = params.of(config)
    ladder = _at_size(_on_dataset(LADDER[config], params), params)
    wanted: dict[str, Any] = {name: getattr(params, name) for name in NUMBERS}
    if not isinf(ladder.lr_decay_batches):
        wanted["lr_decay_batches"] = params.lr_decay_batches
    wanted |= dict(params.overrides)
    return replace(ladder, **{key: value for key, value in wanted.items() if value is not None})


def check_configs(params: Params) -> None:
    """Hold every config against what cannot go together.

    Raises:
        UserError: a line per contradiction, with the way out.
    """
    lines = [
        f"config {config}: {line}"
        for config in params.configs
        for line in contradictions(configured(config, params.diffusion))
    ]
    if lines:
        raise UserError("\n  ".join(["diffusion.overrides contradict each other:", *lines]))


def contradictions(ladder: Ladder) -> Iterator[str]:
    """Switches that defeat each other, each with the reason and the way out."""
    if ladder.weight_norm != "none" and ladder.initialization == "zero_ends":
        yield (
            f"weight_norm: {ladder.weight_norm!r} with initialization: 'zero_ends': a weight of "
            "zeros has no direction to normalize. Set initialization to uniform or normal."
        )
    if ladder.weight_norm == "none" and ladder.initialization == "normal":
        yield (
            "weight_norm: 'none' with initialization: 'normal': weights of unit variance make "
            "outputs √fan-in times too large unless they are normalized. Set weight_norm to "
            "forward or forced, or initialization to uniform."
        )
    if ladder.attention == "dot" and ladder.group_norm == "none":
        yield (
            "attention: 'dot' with group_norm: 'none': nothing bounds the logits of dot-product "
            "attention without the group norm before it. Set attention to cosine, or group_norm "
            "to no_mean or standard."
        )
    if not ladder.bias and ladder.group_norm == "standard":
        yield (
            "bias: False with group_norm: 'standard': that group norm has biases. Set group_norm "
            "to no_mean, or bias to true."
        )


def _on_dataset(ladder: Ladder, params: Diffusion) -> Ladder:
    """Noise levels and decay time of the data set; the EDM baseline keeps EDM's noise levels."""
    settings = DATASETS[params.paper_dataset]
    if ladder.uncertainty:
        ladder = replace(ladder, p_mean=settings.p_mean, p_std=settings.p_std)
    if not isinf(ladder.lr_decay_batches):
        ladder = replace(ladder, lr_decay_batches=settings.lr_decay_batches)
    return ladder


def _at_size(ladder: Ladder, params: Diffusion) -> Ladder:
    """Dropout of the size, and its learning rate where layers preserve magnitude."""
    if params.size is None:
        return ladder
    settings = SIZES[params.size]
    ladder = replace(ladder, dropout=max(ladder.dropout, settings.dropout))
    if ladder.weight_norm != "none":
        ladder = replace(ladder, lr_ref=settings.lr_ref)
    return ladder
