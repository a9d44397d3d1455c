"""`diffusion`: the denoiser and its training. null mostly means the paper's value for the config."""

from typing import Annotated, Any, Literal

from pydantic import Field

from edm2.params.configs import (
    Attention,
    Average,
    ConfigName,
    GroupNorm,
    Initialization,
    NoiseEmbedding,
    WeightNorm,
)
from edm2.params.number_types import (
    Batch,
    Batches,
    Beta,
    Blocks,
    ChannelMult,
    Channels,
    Dropout,
    Images,
    LearningRate,
    LogNoiseMean,
    LogNoiseStd,
    LossScaling,
    Sides,
)
from edm2.params.registry import one_of
from edm2.params.seams import BACKBONES, OBJECTIVES
from edm2.params.section import Section, Training
from edm2.params.sizes import PaperDataset, Size


class Overrides(Section):
    """Options of the training config to change; see `edm2.params.configs.TrainingConfig`."""

    backbone: Annotated[str, one_of(BACKBONES)] | None = Field(description="the raw network")
    objective: Annotated[str, one_of(OBJECTIVES)] | None = Field(
        description="preconditioning, noise distribution and loss"
    )
    noise_embedding: NoiseEmbedding | None = Field(description="features of the noise level")
    embedding_layers: Literal[1, 2] | None = Field(
        description="linear layers between noise features and embedding"
    )
    bias: bool | None = Field(description="biases in layers, and a shift in conditioning")
    ones_channel: bool | None = Field(
        description="a constant channel of ones in the network's input"
    )
    scaled_labels: bool | None = Field(description="one-hot labels times √(number of classes)")
    group_norm: GroupNorm | None = Field(description="in the residual branches and the output")
    pixel_norm: bool | None = Field(
        description="each pixel normalized on the encoder's main path; resampling happens there"
    )
    attention: Attention | None = Field(
        description="dot: after group norm; cosine: normalized q, k and v"
    )
    attention_fp32: bool | None = Field(description="attention in fp32 at every precision")
    initialization: Initialization | None = Field(description="of all layers")
    weight_norm: WeightNorm | None = Field(
        description="forward: normalized where used; forced: and set back before each step"
    )
    magnitude_preserving: bool | None = Field(
        description="SiLU, sums and concatenations of unit magnitude, with learned gains"
    )
    output_silu: bool | None = Field(description="an activation before the output convolution")
    uncertainty: bool | None = Field(description="loss weighted by a learned uncertainty")
    average: Average | None = Field(
        description="power: EMA lengths are chosen after training; traditional: one fixed average"
    )
    loss_scaling: LossScaling | None = Field(description="factor on the loss before its gradient")


class Diffusion(Training):
    size: Size | None = Field(description="a size of the paper; null: channels gives the width")
    channels: Channels | None = Field(description="width of the first level; null: size gives it")
    channel_mult: ChannelMult = Field(description="width of each level over channels")
    res_blocks: Blocks = Field(
        description="residual blocks per level (decoder: one more); paper: 3"
    )
    attention_resolutions: Sides | None = Field(
        description="resolutions whose blocks attend, besides the first block of the decoder; "
        "null: 32, 16, 8 for A, 16, 8 for the others"
    )
    conditional: bool = Field(description="whether the network is conditioned on the class")
    paper_dataset: PaperDataset = Field(
        description="the paper's dataset whose noise levels and decay time replace null"
    )
    p_mean: LogNoiseMean | None = Field(description="mean of ln σ in training")
    p_std: LogNoiseStd | None = Field(description="standard deviation of ln σ in training")
    lr_ref: LearningRate | None = Field(description="reference learning rate α_ref")
    lr_decay_batches: Batches | None = Field(
        description="batches t_ref after which the rate falls as 1/√t; "
        "no effect on configs with a constant rate (A to D)"
    )
    lr_rampup_nimg: Images | None = Field(description="images of linear learning-rate ramp-up")
    adam_beta2: Beta | None = Field(description="Adam's β₂")
    dropout: Dropout | None = Field(description="dropout in the residual branches")
    microbatch: Batch | None = Field(
        description="images per forward pass and rank (gradients accumulate); null: the rank's whole batch"
    )
    label_dropout: Dropout = Field(
        description="fraction of the training images whose label is dropped"
    )
    magnitudes_nimg: Images = Field(
        description="images between two measurements of activations, weights and updates"
    )
    magnitudes_of_average: bool = Field(
        description="measure weights and activations also with the longest tracked average in place "
        "of the parameters (paper Figure 15); one more forward pass per measurement"
    )
    overrides: Overrides = Field(
        description="options to change in all configs; null: the config's options"
    )
    per_config: dict[ConfigName, dict[str, Any]] = Field(
        description="fields of `diffusion` with another value for one config: {A: {lr_ref: 0.001}}"
    )

    def of(self, config: ConfigName) -> "Diffusion":
        """These params for one config: its `per_config` entry merged in.

        Raises:
            pydantic.ValidationError: the entry has an unknown key or an impossible value.
        """
        common = self.model_copy(update={"per_config": {}})
        return common.changed(self.per_config.get(config, {}))

    def changed(self, changes: dict[str, Any]) -> "Diffusion":
        """These params with some values changed; mappings are merged.

        Raises:
            pydantic.ValidationError: an unknown key or an impossible value.
        """
        return Diffusion.model_validate(self.merged(changes))

    def merged(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The tree of these params with some values changed, not validated."""
        return _merged(self.model_dump(), changes)


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the values of `changes`, mapping by mapping."""
    merged = {
        key: _merged(tree[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return {**tree, **changes, **merged}
