"""`features`: the small classifier of the dataset, an offline stand-in for VGG16 and Inception."""

from pydantic import Field

from edm2.params.number_types import Channels, LearningRate, Levels, Shift, WeightDecay
from edm2.params.section import Training


class Features(Training):
    channels: Channels = Field(
        description="width of the first slice; each further slice doubles it"
    )
    slices: Levels = Field(
        description="number of slices; each after the first halves the resolution"
    )
    dims: Channels = Field(description="width of the feature vector for Fréchet distances")
    lr: LearningRate = Field(
        description="peak learning rate of AdamW (linear warm-up, cosine decay)"
    )
    weight_decay: WeightDecay = Field(description="weight decay of AdamW")
    max_shift: Shift = Field(description="largest random shift in pixels, for augmentation")
