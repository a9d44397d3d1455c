"""`vae`: the autoencoder that makes the latents."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.section import Count, Counts, NonNegative, Positive, Section, Training


class Losses(Section):
    """Weights. Each loss's gradient at the image is scaled to this norm; 0 leaves the loss out."""

    perceptual: NonNegative = Field(description="distance of backbone features (LPIPS, eq. 1)")
    reconstruction: NonNegative = Field(description="squared error of area-pooled images")
    reconstruction_pool: Count = Field(description="side of the pooling window in pixels")
    kl: NonNegative = Field(description="weight of mean μ² (KL term of a constant variance)")


class VaeImages(Section):
    """Where the training images come from, and how they are varied."""

    shards: str | None = Field(
        description="tars of images as img2dataset writes them, such as /data/{00000..00099}.tar, "
        "relative to the project root; null: the images that prepare makes"
    )
    held_out: str | None = Field(
        description="other such tars, for held-out metrics; null with shards: null"
    )
    least_area: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest part of an image's largest square that a random crop takes; "
        "1.0: no random crops, that square from the middle"
    )
    flip: Annotated[float, Field(ge=0, le=1)] = Field(
        description="probability that an image is flipped horizontally"
    )


class Vae(Training):
    images: VaeImages = Field(description="the images that it is trained on")
    channels: Count = Field(description="width of the first level")
    channel_mult: Counts = Field(
        description="width of each level over channels; every level after the first halves the size"
    )
    num_res_blocks: Count = Field(description="residual blocks per level (decoder: one more)")
    latent_channels: Count = Field(description="channels of the latents")
    attention: bool = Field(description="self-attention in the middle of encoder and decoder")
    variance: NonNegative = Field(description="fixed variance of the latents; 0: deterministic")
    backbone: Literal["classifier", "vgg16"] = Field(
        description="what the perceptual distance sees; classifier: the data set's own; "
        "vgg16: trained on ImageNet, with the channel weights of LPIPS"
    )
    backbone_path: str | None = Field(
        description="backbone vgg16: a copy of torchvision's weights, relative to the project root; "
        "null: downloaded once; classifier: null"
    )
    losses: Losses = Field(description="which losses, and their balance at the image")
    lr: Positive = Field(
        description="learning rate of AdamW over channels, for all layers but the first"
    )
    lr_input: Positive = Field(description="learning rate of the first convolution")
    weight_decay: NonNegative = Field(description="weight decay of AdamW")
    warmup_nimg: Count = Field(description="images of linear learning-rate warm-up")
    evaluate_nimg: Count = Field(description="images between two held-out evaluations")

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return int(2 ** (len(self.channel_mult) - 1))
