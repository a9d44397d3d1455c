"""`vae`: the VAE that makes the latents."""

from math import inf
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from edm2.params.registry import one_of
from edm2.params.seams import DETECTORS, VAE_BACKBONES
from edm2.params.section import (
    AnyEmaLengths,
    Count,
    Counts,
    EmaLength,
    NonNegative,
    Positive,
    Probability,
    Section,
    Training,
)


def _number_or_learned(value: object) -> object:
    """Makes a value of neither type one problem, not two."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf
    if not number and value != "learned":
        raise ValueError("a number of at least 0, or 'learned'")
    return value


Variance = Annotated[float | Literal["learned"], BeforeValidator(_number_or_learned)]


class Losses(Section):
    """Weights; 0 leaves a loss out. Each loss's gradient at the image is scaled to its weight."""

    perceptual: NonNegative = Field(description="distance of backbone features (LPIPS, eq. 1)")
    adversarial: NonNegative = Field(description="the discriminator's scores of reconstructions")
    pooled: NonNegative = Field(description="squared error of area-pooled images")
    low_pass: NonNegative = Field(description="squared error in the flat parts of images")
    mse: NonNegative = Field(description="squared error of all pixels")
    kl: NonNegative = Field(description="weight of mean μ², or of twice the KL term if learned")
    pool: Count = Field(description="side of the pooling window in pixels")
    gradient_normalization: bool = Field(
        description="scale each loss's gradient at an image to norm 1 (root mean square) before its weight"
    )
    flip: Probability = Field(
        description="probability that image and reconstruction are flipped for backbone and discriminator"
    )


class Adversarial(Section):
    """The discriminator; used if losses.adversarial is above 0."""

    channels: Count = Field(description="width of each head on the backbone's slices")
    loss: Literal["hinge", "bce"] = Field(description="what the discriminator minimizes")
    generator_loss: Literal["threshold", "hinge", "bce"] = Field(
        description="what the VAE minimizes; threshold: only while the discriminator is ahead"
    )
    lecam: NonNegative = Field(description="weight of LeCam regularization; 0.1 is usual")
    lr: Positive = Field(description="learning rate of the discriminator's AdamW")
    discriminator_nimg: int = Field(
        ge=0, description="images after which the discriminator's training starts"
    )
    generator_nimg: int = Field(
        ge=0, description="images after which the loss enters the VAE's training"
    )


class Equivariance(Section):
    """Latents that are flipped or cropped must decode to flipped or cropped images."""

    flip: Probability = Field(description="probability of a flip, of either axis; 0.5 is usual")
    flip_channels: int = Field(
        ge=0, description="latent channels that a flip of an axis negates, per axis"
    )
    crop: Probability = Field(description="probability of a crop to half the side; 0.5 is usual")


class VaeImages(Section):
    """The training images and their augmentation."""

    shards: str | None = Field(
        description="tars of images as img2dataset writes them, such as /data/{00000..00099}.tar, "
        "relative to the project root; null: those of the stage prepare"
    )
    held_out: str | None = Field(
        description="other such tars, for held-out metrics; null with shards: null"
    )
    min_area: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest area of a random crop, as a fraction of the image's largest square; "
        "1.0: always the center square"
    )
    flip: Probability = Field(description="probability that an image is flipped horizontally")


class VaeInit(Section):
    """The weights that the training starts from."""

    path: str | None = Field(
        description="folder of a VAE with the same options: models/vae of another project, or an "
        "AutoencoderKL of diffusers, relative to the project root; null: random weights"
    )
    parts: Literal["all", "decoder"] = Field(
        description="which weights are taken from there; with path: null all"
    )


class VaeEma(Section):
    """Power-function averages of the VAE's weights; any EMA length can be made of their snapshots."""

    ema_lengths: AnyEmaLengths = Field(
        description="EMA lengths tracked during training; two give near-exact reconstructions; []: none"
    )
    snapshot_nimg: Count = Field(description="images between two snapshots of the averages")
    evaluate_lengths: AnyEmaLengths = Field(
        description="EMA lengths at which the VAE is evaluated after training, on the held-out images: a "
        "list, or a range like 0.02...0.24 by 0.02; []: none"
    )
    length: EmaLength | None = Field(
        description="EMA length of the weights that become the codec; null: the final weights"
    )


class Vae(Training):
    seed: int = Field(ge=0, description="seed of the VAE's training")
    init: VaeInit = Field(description="the weights that the training starts from")
    images: VaeImages = Field(description="the training images of the VAE")
    channels: Count = Field(description="width of the first level")
    channel_mult: Counts = Field(
        description="width of each level over channels; every level after the first halves the size"
    )
    res_blocks: Count = Field(description="residual blocks per level (decoder: one more)")
    latent_channels: Count = Field(description="channels of the latents")
    norm_groups: Count | None = Field(
        description="groups of all group normalizations; null: 32, or fewer where a group would have less "
        "than 4 channels"
    )
    attention: bool = Field(description="self-attention in the middle of encoder and decoder")
    attention_heads: Count | None = Field(
        description="heads of the attention; null: one for 64 channels"
    )
    quant_convolutions: bool = Field(
        description="a 1×1 convolution after the encoder and one before the decoder, as Stable Diffusion's "
        "VAE has them"
    )
    wavelet: bool = Field(description="a Haar wavelet transform in place of the first halving")
    high_resolution: bool = Field(
        description="a decoder with one more level: images are halved before they are encoded"
    )
    variance: Variance = Field(
        description="fixed variance of the latents (0: deterministic), or learned"
    )
    clamp: Positive | None = Field(
        description="largest |μ| of a latent; null: no limit; 8 is usual"
    )
    backbone: Annotated[str, one_of(VAE_BACKBONES)] = Field(
        description="network of the perceptual loss and the discriminator; classifier: that of `features`; "
        "efficientnet: EfficientNet-Lite0, trained on ImageNet, from an installed package; vgg16: trained on "
        "ImageNet, with the channel weights of LPIPS"
    )
    backbone_path: str | None = Field(
        description="backbone vgg16: a copy of torchvision's weights, relative to the project root; "
        "null: downloaded once; others: null"
    )
    detector: Annotated[str, one_of(DETECTORS)] | None = Field(
        description="whose features the held-out images and their reconstructions are compared by, as "
        "evaluation.detector; null: no Fréchet distance"
    )
    detector_path: str | None = Field(
        description="file of its published weights, as evaluation.detector_path; null: downloaded once"
    )
    losses: Losses = Field(description="which losses, and their balance at the image")
    adversarial: Adversarial = Field(description="the discriminator")
    equivariance: Equivariance = Field(description="latents that follow flips and crops")
    microbatch: Count | None = Field(
        description="images per forward pass and rank (gradients accumulate); null: the rank's whole batch"
    )
    lr: Positive = Field(
        description="learning rate of AdamW over channels, for all layers but the first"
    )
    lr_input: Positive = Field(description="learning rate of the first convolution")
    weight_decay: NonNegative = Field(description="weight decay of AdamW")
    warmup_nimg: Count = Field(description="images of linear learning-rate warm-up")
    evaluate_nimg: Count = Field(description="images between two held-out evaluations")
    evaluate_images: Count | None = Field(
        description="largest number of held-out images that evaluations use, of more a fixed random "
        "subset; null: all"
    )
    ema: VaeEma = Field(description="averages of the VAE's weights")

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return int(2 ** (len(self.channel_mult) - 1 + self.high_resolution))
