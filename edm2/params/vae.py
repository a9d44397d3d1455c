"""`vae`: the VAE that makes the latents."""

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from edm2.params.number_types import (
    AnyEmaLengths,
    AnyTrackedEmaLengths,
    Area,
    Batch,
    Blocks,
    ChannelMult,
    Channels,
    ChannelsOrNone,
    EmaLength,
    Factor,
    Images,
    ImagesOrNone,
    LearningRate,
    Probability,
    Samples,
    Scale,
    Seed,
    Side,
    Variance,
    Weight,
    WeightDecay,
)
from edm2.params.registry import one_of
from edm2.params.seams import DETECTORS, VAE_BACKBONES
from edm2.params.section import BatchField, Duration, LogInterval, Section, Training
from edm2.params.text_types import PathText


class Losses(Section):
    """Weights; 0 leaves a loss out. Each loss's gradient at the image is scaled to its weight."""

    perceptual: Weight = Field(
        default=1.0, description="distance of backbone features (LPIPS, eq. 1)"
    )
    adversarial: Weight = Field(
        default=0.0, description="the discriminator's scores of reconstructions"
    )
    pooled: Weight = Field(default=0.0, description="squared error of area-pooled images")
    low_pass: Weight = Field(default=0.0, description="squared error in the flat parts of images")
    mse: Weight = Field(default=0.1, description="squared error of all pixels")
    kl: Weight = Field(
        default=0.0125, description="weight of mean μ², or of twice the KL term if learned"
    )
    pool: Side = Field(default=8, description="side of the pooling window in pixels")
    gradient_normalization: bool = Field(
        default=True,
        description="scale each loss's gradient at an image to norm 1 (root mean square) before its weight",
    )
    flip: Probability = Field(
        default=0.0,
        description="probability that image and reconstruction are flipped for backbone and discriminator",
    )


class Adversarial(Section):
    """The discriminator; used if losses.adversarial is above 0."""

    channels: Channels = Field(
        default=64, description="width of each head on the backbone's slices"
    )
    trainable_backbone: bool = Field(
        default=False,
        description="the discriminator trains a copy of the backbone as well, not its heads alone",
    )
    loss: Literal["hinge", "bce"] = Field(
        default="hinge", description="what the discriminator minimizes"
    )
    generator_loss: Literal["threshold", "hinge", "bce"] = Field(
        default="threshold",
        description="what the VAE minimizes; threshold: only while the discriminator is ahead",
    )
    lecam: Weight = Field(default=0.0, description="weight of LeCam regularization; 0.1 is usual")
    lr: LearningRate = Field(
        default=0.0002, description="learning rate of the discriminator's AdamW"
    )
    discriminator_nimg: ImagesOrNone = Field(
        default=48_000, description="images after which the discriminator's training starts"
    )
    generator_nimg: ImagesOrNone = Field(
        default=96_000, description="images after which the loss enters the VAE's training"
    )


class Equivariance(Section):
    """Latents that are flipped, cropped or downscaled must decode to the images under the same transform."""

    flip: Probability = Field(
        default=0.0, description="probability of a flip, of either axis; 0.5 is usual"
    )
    flip_channels: ChannelsOrNone = Field(
        default=0, description="latent channels that a flip of an axis negates, per axis"
    )
    crop: Probability = Field(
        default=0.0, description="probability of a crop to half the side; 0.5 is usual"
    )
    scale: Probability = Field(
        default=0.0,
        description="probability that a batch is downscaled, to a random whole number of latent pixels "
        "(EQ-VAE, arXiv:2502.09509); 0.5 is usual",
    )
    min_scale: Scale = Field(default=0.25, description="smallest factor of scale; 0.25 is usual")

    def cropped_side(self, side: int) -> int:
        """Side of a crop of latents, in latent pixels."""
        return (side + 1) // 2

    def scaled_sides(self, side: int) -> range:
        """Sides that latents of a given side are downscaled to; empty: none is smaller."""
        return range(ceil(self.min_scale * side), side)


class VaeImages(Section):
    """The training images and their augmentation."""

    shards: PathText | None = Field(
        default=None,
        description="tars of images as img2dataset writes them, such as /data/{00000..00099}.tar, "
        "relative to the project root; null: those of the stage prepare",
    )
    held_out: PathText | None = Field(
        default=None, description="other such tars, for held-out metrics; null with shards: null"
    )
    min_area: Area = Field(
        default=1.0,
        description="smallest area of a random crop, as a fraction of the image's largest square; "
        "1.0: always the center square",
    )
    flip: Probability = Field(
        default=0.0, description="probability that an image is flipped horizontally"
    )


class VaeInit(Section):
    """The weights that the training starts from."""

    path: PathText | None = Field(
        default=None,
        description="folder of a VAE with the same options: models/vae of another project, or an "
        "AutoencoderKL of diffusers, relative to the project root; null: random weights",
    )
    parts: Literal["all", "decoder"] = Field(
        default="all", description="which weights are taken from there; with path: null all"
    )


class VaeEma(Section):
    """Power-function averages of the VAE's weights; any EMA length can be made of their snapshots."""

    ema_lengths: AnyTrackedEmaLengths = Field(
        default=(),
        description="EMA lengths tracked during training; two give near-exact reconstructions; []: none",
    )
    snapshot_nimg: Images = Field(
        default=96_000, description="images between two snapshots of the averages"
    )
    evaluate_lengths: AnyEmaLengths = Field(
        default=(),
        description="EMA lengths at which the VAE is evaluated after training, on the held-out images, "
        "if some are tracked: a list, or a range like 0.02...0.24 by 0.02; []: none",
    )
    length: EmaLength | None = Field(
        default=None,
        description="EMA length of the weights that become the codec; null: the final weights",
    )


class Vae(Training):
    """The VAE and its training.

    The defaults are for use as a library: a network of 20 million weights, with latents of 16 channels,
    eight times smaller than images.
    """

    batch: BatchField = 16
    duration_nimg: Duration = 960_000
    log_nimg: LogInterval = 9_600
    seed: Seed = Field(default=0, description="seed of the VAE's training")
    init: VaeInit = Field(
        default=VaeInit(), description="the weights that the training starts from"
    )
    images: VaeImages = Field(default=VaeImages(), description="the training images of the VAE")
    channels: Channels = Field(default=64, description="width of the first level")
    channel_mult: ChannelMult = Field(
        default=(1, 2, 4, 4),
        description="width of each level over channels; every level after the first halves the size",
    )
    res_blocks: Blocks = Field(
        default=2, description="residual blocks per level (decoder: one more)"
    )
    latent_channels: Channels = Field(default=16, description="channels of the latents")
    norm_groups: Channels | None = Field(
        default=None,
        description="groups of all group normalizations; null: 32, or fewer where a group would have less "
        "than 4 channels",
    )
    attention: bool = Field(
        default=False, description="self-attention in the middle of encoder and decoder"
    )
    attention_heads: Channels | None = Field(
        default=None, description="heads of the attention; null: one for 64 channels"
    )
    quant_convolutions: bool = Field(
        default=False,
        description="a 1×1 convolution after the encoder and one before the decoder, as Stable Diffusion's "
        "VAE has them",
    )
    wavelet: bool = Field(
        default=False, description="a Haar wavelet transform in place of the first halving"
    )
    high_resolution: bool = Field(
        default=False,
        description="a decoder with one more level: images are halved before they are encoded",
    )
    variance: Variance = Field(
        default=0.1, description="fixed variance of the latents (0: deterministic), or learned"
    )
    clamp: Factor | None = Field(
        default=None, description="largest |μ| of a latent; null: no limit; 8 is usual"
    )
    backbone: Annotated[str, one_of(VAE_BACKBONES)] = Field(
        default="efficientnet",
        description="network of the perceptual loss and the discriminator; classifier: that of `features`; "
        "efficientnet: EfficientNet-Lite0, trained on ImageNet, from an installed package; vgg16: trained on "
        "ImageNet, with the channel weights of LPIPS",
    )
    backbone_path: PathText | None = Field(
        default=None,
        description="backbone vgg16: a copy of torchvision's weights, relative to the project root; "
        "null: downloaded once; others: null",
    )
    losses: Losses = Field(
        default=Losses(), description="which losses, and their balance at the image"
    )
    adversarial: Adversarial = Field(default=Adversarial(), description="the discriminator")
    equivariance: Equivariance = Field(
        default=Equivariance(), description="latents that follow flips, crops and scale"
    )
    detector: Annotated[str, one_of(DETECTORS)] | None = Field(
        default=None,
        description="whose features the held-out images and their reconstructions are compared by, as "
        "evaluation.detector; null: no Fréchet distance",
    )
    detector_path: PathText | None = Field(
        default=None,
        description="file of its published weights, as evaluation.detector_path; null: downloaded once",
    )
    microbatch: Batch | None = Field(
        default=None,
        description="images per forward pass and rank (gradients accumulate); null: the rank's whole batch",
    )
    lr: LearningRate = Field(
        default=0.06,
        description="learning rate of AdamW over channels, for all layers but the first",
    )
    lr_input: LearningRate = Field(
        default=0.0001, description="learning rate of the first convolution"
    )
    lr_input_layers: Literal["encoder", "both"] = Field(
        default="encoder",
        description="whose first convolution has lr_input: the encoder's, or also the decoder's",
    )
    weight_decay: WeightDecay = Field(default=0.001, description="weight decay of AdamW")
    warmup_nimg: Images = Field(default=3_200, description="images of linear learning-rate warm-up")
    evaluate_nimg: Images = Field(
        default=96_000, description="images between two held-out evaluations"
    )
    evaluate_images: Samples | None = Field(
        default=5_000,
        description="largest number of held-out images that evaluations use: a fixed random subset "
        "if there are more; null: all",
    )
    ema: VaeEma = Field(default=VaeEma(), description="averages of the VAE's weights")

    @field_validator("microbatch")
    @classmethod
    def _divides_batch(cls, microbatch: int | None, info: ValidationInfo) -> int | None:
        """Gradients of microbatches add up to those of the batch; ranks divide it once more."""
        batch = info.data.get("batch")  # none, if it is wrong itself
        if microbatch is not None and batch is not None and batch % microbatch:
            raise ValueError(f"a divisor of vae.batch ({batch})")
        return microbatch

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return int(2 ** (len(self.channel_mult) - 1 + self.high_resolution))
