"""What a config resolves to: its options, the paper's numbers for size and dataset, and the params."""

from collections.abc import Iterator
from dataclasses import replace
from math import isinf
from typing import Any

from edm2.params.configs import CONFIGS, ConfigName, TrainingConfig
from edm2.params.diffusion import Diffusion
from edm2.params.errors import Problem
from edm2.params.sizes import DATASETS, SIZES, Size

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


def resolve(name: ConfigName, params: Diffusion) -> TrainingConfig:
    """The complete config: every null of `params` replaced by the paper's value.

    A config with a constant learning rate keeps it constant: lr_decay_batches sets when the rate
    falls, not whether it does.
    """
    params = params.of(name)
    config = _on_dataset(at_size(CONFIGS[name], params.size), params)
    values: dict[str, Any] = {key: getattr(params, key) for key in NUMBERS}
    if not isinf(config.lr_decay_batches):
        values["lr_decay_batches"] = params.lr_decay_batches
    values |= dict(params.overrides)
    return replace(config, **{key: value for key, value in values.items() if value is not None})


def at_size(config: TrainingConfig, size: Size | None) -> TrainingConfig:
    """The config with the dropout of a size (EDM2 Table 6), and with its learning rate if weights are
    normalized.
    """
    if size is None:
        return config
    settings = SIZES[size]
    config = replace(config, dropout=max(config.dropout, settings.dropout))
    return config if config.weight_norm == "none" else replace(config, lr_ref=settings.lr_ref)


def _on_dataset(config: TrainingConfig, params: Diffusion) -> TrainingConfig:
    """Noise levels and decay time of the dataset; the EDM baseline keeps EDM's noise levels."""
    settings = DATASETS[params.paper_dataset]
    if config.uncertainty:
        config = replace(config, p_mean=settings.p_mean, p_std=settings.p_std)
    if isinf(config.lr_decay_batches):
        return config
    return replace(config, lr_decay_batches=settings.lr_decay_batches)


def contradictions(config: TrainingConfig) -> Iterator[Problem]:
    """Options that contradict each other."""
    key = "diffusion.overrides"
    if config.weight_norm != "none" and config.initialization == "zero_ends":
        yield Problem(
            f"{key}.weight_norm",
            config.weight_norm,
            "none with initialization: zero_ends, as a weight of zeros has no direction to normalize",
            "Set initialization to uniform or normal.",
        )
    if config.weight_norm == "none" and config.initialization == "normal":
        yield Problem(
            f"{key}.weight_norm",
            config.weight_norm,
            "forward or forced with initialization: normal, whose weights of unit variance make "
            "outputs √fan-in times too large",
            "Set weight_norm to one of these, or initialization to uniform.",
        )
    if config.attention == "dot" and config.group_norm == "none":
        yield Problem(
            f"{key}.attention",
            config.attention,
            "cosine with group_norm: none, as nothing else bounds the logits of attention",
            "Set attention to cosine, or group_norm to no_mean or standard.",
        )
    if not config.bias and config.group_norm == "standard":
        yield Problem(
            f"{key}.bias",
            config.bias,
            "true with group_norm: standard, which has biases",
            "Set group_norm to no_mean, or bias to true.",
        )
