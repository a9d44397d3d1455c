"""`diffusion`: the denoiser and its training. null means: as the paper has it for the config."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Count, Counts, Fraction, Positive, Training

Letter = Literal["A", "B", "C", "D", "E", "F", "G"]
Size = Literal["XXS", "XS", "S", "M", "L", "XL", "XXL"]


class Diffusion(Training):
    size: Size | None = Field(description="a size of the paper, or null: channels says it")
    channels: Count | None = Field(description="width of the first level, or null: size says it")
    channel_mult: Counts = Field(description="width of each level over channels")
    blocks: Count = Field(description="residual blocks per level (decoder: one more); paper: 3")
    attention_resolutions: Counts | None = Field(
        description="resolutions whose blocks attend; null: 32, 16, 8 for A, 16, 8 for the others"
    )
    conditional: bool = Field(description="whether the network is told the class")
    p_mean: float | None = Field(description="mean of ln σ in training")
    p_std: Positive | None = Field(description="standard deviation of ln σ in training")
    lr_ref: Positive | None = Field(description="reference learning rate α_ref")
    lr_decay_batches: Positive | None = Field(
        description="batches t_ref after which the rate falls as 1/√t; "
        "configs of constant rate (A to D) keep it constant whatever stands here"
    )
    lr_rampup_nimg: Count | None = Field(description="images of linear learning-rate ramp-up")
    adam_beta2: Fraction | None = Field(description="Adam's β₂")
    dropout: float | None = Field(ge=0, lt=1, description="dropout in the residual branches")
    microbatch: Count | None = Field(
        description="images per forward pass and rank (gradients add up); null: all at once"
    )
