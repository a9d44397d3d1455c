"""The options of a VAE as manifests have them, also older ones."""

from collections.abc import Mapping
from typing import Any

from edm2.params.vae import Vae

# options that older manifests do not have, with what all had then
ADDED: dict[str, Any] = {
    "init": {"path": None, "parts": "all"},
    "norm_groups": None,
    "attention_heads": None,
    "quant_convolutions": False,
    "lr_input_layers": "encoder",
    "ema": {"ema_lengths": (), "snapshot_nimg": 1, "evaluate_lengths": (), "length": None},
    "detector": None,
    "detector_path": None,
    "adversarial": {"trainable_backbone": False},
    "equivariance": {"scale": 0.0, "min_scale": 0.25},
}


def stored_options(options: Any) -> Vae:
    """The options in a manifest, with those that were added since it was written.

    Raises:
        pydantic.ValidationError: a value is impossible, or a key is unknown or missing.
    """
    return Vae.complete(_with_added(options) if isinstance(options, Mapping) else options)


def _with_added(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a VAE in a manifest, with those that were added since, also in its sections."""
    both = ADDED.keys() & options.keys()
    sections = {
        k: ADDED[k] for k in both if isinstance(ADDED[k], dict) and isinstance(options[k], dict)
    }
    return {**ADDED, **options, **{k: {**added, **options[k]} for k, added in sections.items()}}
