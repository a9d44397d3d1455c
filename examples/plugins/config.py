"""A training config: G with a second linear layer in the embedding, as A to E have it."""

from dataclasses import replace

from edm2.params.configs import CONFIGS

CONFIGS.register("H", replace(CONFIGS["G"], name="Second embedding layer", embedding_layers=2))
