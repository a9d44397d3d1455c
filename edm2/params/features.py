"""`features`: the small classifier of the dataset, an offline stand-in for VGG16 and Inception."""

from pydantic import Field

from edm2.params.section import Count, NonNegative, Positive, Training


class Features(Training):
    channels: Count = Field(description="width of the first slice; each further slice doubles it")
    slices: Count = Field(
        description="number of slices; each after the first halves the resolution"
    )
    dims: Count = Field(description="width of the feature vector for Fréchet distances")
    lr: Positive = Field(description="peak learning rate of AdamW (linear warm-up, cosine decay)")
    weight_decay: NonNegative = Field(description="weight decay of AdamW")
    max_shift: int = Field(ge=0, description="largest random shift in pixels, for augmentation")
