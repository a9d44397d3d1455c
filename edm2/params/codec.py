"""`codec`: what turns images into latents and back."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.registry import one_of
from edm2.params.seams import CODECS
from edm2.params.section import Section


class CodecChoice(Section):
    kind: Annotated[str, one_of(CODECS)] = Field(
        description="trained: the autoencoder of `vae`; stable_diffusion: Stable Diffusion's, "
        "8× down to 4 channels; rgb: none, the denoiser sees pixels"
    )
    path: str | None = Field(
        description="kind stable_diffusion: folder of the autoencoder (config.json and safetensors), "
        "relative to the project root; null: downloaded once; other kinds: null"
    )
    normalization: Literal["dataset", "paper"] = Field(
        description="what brings latents to σ_data 0.5; dataset: mean and std over the training "
        "images; paper: EDM2's constants and pixel range, which its published networks need"
    )
