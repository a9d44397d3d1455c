"""A denoiser without its weights, as plain values for JSON: its training config and its shape.

A description may come from a stranger: it is checked before a module is made, and `build` on the meta
device allocates nothing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from edm2.diffusion.backbone import Shape
from edm2.diffusion.denoiser import Denoiser
from edm2.params import UserError
from edm2.params.configs import TrainingConfig
from edm2.params.registry import Registry, load_plugins
from edm2.params.seams import BACKBONES, OBJECTIVES

KEYS = ("config", "shape", "head")
MAX_LAYERS = 64  # of the embedding
REMEDY = "Export the network again, with the version of edm2 that reads it."
PLUGIN_REMEDY = "Import the plug-in that adds it first, or name it in `plugins` of params.yaml."


CONFIG = TypeAdapter(TrainingConfig)
SHAPE = TypeAdapter(Shape)


def describe(denoiser: Denoiser) -> dict[str, Any]:
    """All that `build` needs, for JSON: no infinities, an infinite `lr_decay_batches` is None.

    `head` is whether there is an uncertainty head, which averages of a training lack. The precision of
    activations is a choice of whoever runs the network, so it is not part of it.
    """
    config = asdict(denoiser.config)
    if math.isinf(config["lr_decay_batches"]):
        config["lr_decay_batches"] = None
    config["attention_resolutions"] = list(denoiser.config.attention_resolutions)
    shape = {**asdict(denoiser.shape), "channel_mult": list(denoiser.shape.channel_mult)}
    return {"config": config, "shape": shape, "head": denoiser.head is not None}


def build(
    description: Mapping[str, Any], source: object = "denoiser", dtype: torch.dtype = torch.float32
) -> Denoiser:
    """The denoiser that `describe` described, with newly initialized weights.

    Args:
        source: where the description is, for errors.
        dtype: precision of activations.

    Raises:
        UserError: a key is missing or unknown, a value is not allowed, or there is no such network.
    """
    _check_keys(description, KEYS, str(source))
    config = _config(description["config"], f"{source}: config")
    shape = _validate(SHAPE, description["shape"], f"{source}: shape")
    if not isinstance(description["head"], bool):
        raise UserError(
            f"{source}: head: {description['head']!r}: expected true or false. {REMEDY}"
        )
    try:
        denoiser = Denoiser(config, shape, dtype)
    except Exception as error:  # of a backbone, which may raise anything
        raise UserError(
            f"{source}: no network can be built of this config and shape ({type(error).__name__}: "
            f"{error}). {REMEDY}"
        ) from None
    if not description["head"]:
        denoiser.head = None
    return denoiser


def _config(values: Any, source: str) -> TrainingConfig:
    _check_keys(values, [field.name for field in fields(TrainingConfig)], source)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{source}: {name}: {value}: expected a finite number. {REMEDY}")
    decay = values["lr_decay_batches"]
    config = _validate(
        CONFIG, {**values, "lr_decay_batches": math.inf if decay is None else decay}, source
    )
    seams: dict[str, Registry[Any]] = {"backbone": BACKBONES, "objective": OBJECTIVES}
    if any(getattr(config, seam) not in registry for seam, registry in seams.items()):
        list(load_plugins(None, Path()))  # those of installed packages
    for seam, registry in seams.items():
        if getattr(config, seam) not in registry:
            raise UserError(
                f"{source}: {seam}: {getattr(config, seam)!r}: expected one of "
                f"{', '.join(registry)}. {PLUGIN_REMEDY}"
            )
    if not 0 <= config.embedding_layers <= MAX_LAYERS:
        raise UserError(
            f"{source}: embedding_layers: {config.embedding_layers}: expected at most {MAX_LAYERS}. "
            f"{REMEDY}"
        )
    return config


def _check_keys(values: Any, expected: Any, source: str) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{source}: expected a mapping with {', '.join(expected)}. {REMEDY}")
    for problem, names in (
        ("missing", set(expected) - values.keys()),
        ("unknown", values.keys() - set(expected)),
    ):
        if names:
            raise UserError(
                f"{source}: {problem}: {', '.join(sorted(map(str, names)))}. Expected "
                f"{', '.join(expected)}. {REMEDY}"
            )


def _validate(adapter: TypeAdapter[Any], values: Any, source: str) -> Any:
    try:  # JSON has lists where dataclasses have tuples
        return adapter.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {first_problem(error)} {REMEDY}") from None


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's problems as a sentence: key, value, what is wrong."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "the whole"
    return f"{key}: {str(first['input'])[:80]!r}: {first['msg']}."
