"""`codec`: from images to latents and back."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.registry import one_of
from edm2.params.seams import CODECS
from edm2.params.section import Section
from edm2.params.text_types import PathText

Rounding = Literal["nearest", "truncate"]


class CodecChoice(Section):
    kind: Annotated[str, one_of(CODECS)] = Field(
        description="trained: the VAE of `vae`; stable_diffusion: Stable Diffusion's VAE, "
        "8× down to 4 channels; rgb: no codec, diffusion of pixels"
    )
    path: PathText | None = Field(
        description="kind stable_diffusion: folder of the VAE (config.json and safetensors), "
        "relative to the project root; null: downloaded once; other kinds: null"
    )
    normalization: Literal["dataset", "paper"] = Field(
        description="how latents are scaled to σ_data 0.5; dataset: mean and std over the training "
        "images; paper: EDM2's constants and pixel range, which its published networks need"
    )
    rounding: Rounding = Field(
        description="from decoded values to 8 bits; truncate (kind stable_diffusion): downwards, as the "
        "images were made that the paper's numbers are of"
    )
