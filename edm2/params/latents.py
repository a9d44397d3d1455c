"""`latents`: how the images' latents are stored."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Section


class Latents(Section):
    dtype: Literal["float16", "float32"] = Field(
        description="precision of the stored means and standard deviations; float32 takes twice the disk "
        "space, and is for latents that float16 cannot hold"
    )
