"""The config: EDM2 Table 1, from the EDM baseline (A) to full magnitude preservation (G).

Each config is the one before it and the switches that the paper changes. Numbers are those of the
S size on 64×64×4 latents (EDM2 Table 1, Appendix B and D). Networks and trainings ask switches;
nothing asks for letters.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Literal

from edm2.params.registry import Registry, one_of

NoiseEmbedding = Literal["positional", "fourier", "mp_fourier"]
GroupNorm = Literal["standard", "no_mean", "none"]
Attention = Literal["dot", "cosine"]
Initialization = Literal["zero_ends", "uniform", "normal"]
WeightNorm = Literal["none", "forward", "forced"]
Average = Literal["traditional", "power"]


@dataclass(frozen=True)
class TrainingConfig:
    """One training configuration.

    Attributes:
        name: as in Table 1.
        backbone: the raw network, a member of `edm2.params.seams.BACKBONES`.
        objective: preconditioning, noise distribution and loss, a member of
            `edm2.params.seams.OBJECTIVES`.
        noise_embedding: features of the noise level: cosines and sines of fixed frequencies,
            random Fourier features, or those scaled to unit magnitude.
        embedding_layers: linear layers between noise features and embedding.
        bias: whether layers (but the class embedding) have biases, and conditioning a shift.
        ones_channel: whether a constant 1 is concatenated to the network's input.
        scaled_labels: whether one-hot labels are scaled by √(number of classes).
        group_norm: with mean subtraction, learned scale and bias; without all three; or none.
        pixel_norm: whether encoder blocks normalize each pixel on their main path, and resampling
            and channel changes happen there too.
        attention: scaled dot product after group norm, or cosine: q, k, v normalized per pixel.
        initialization: uniform ±1/√fan-in with zeros where a branch ends; uniform everywhere;
            or standard normal.
        weight_norm: weights as they are; normalized in the forward pass; and set back to that
            norm before each training step, too.
        magnitude_preserving: whether SiLU, sums and concatenations preserve magnitude, with
            learned gains on conditioning and output.
        output_silu: whether the output block has an activation.
        uncertainty: whether the loss is weighted by a learned uncertainty of the noise level.
        average: traditional EMA, or power-function EMA with lengths chosen afterwards.
        attention_fp32: whether attention is computed in fp32 whatever the precision.
        attention_resolutions, dropout: of the network.
        batch, lr_ref, lr_decay_batches, lr_rampup_nimg, adam_beta2, loss_scaling: of the training.
        p_mean, p_std: of ln σ in training.
    """

    name: str
    backbone: str
    objective: str
    noise_embedding: NoiseEmbedding
    embedding_layers: int
    bias: bool
    ones_channel: bool
    scaled_labels: bool
    group_norm: GroupNorm
    pixel_norm: bool
    attention: Attention
    initialization: Initialization
    weight_norm: WeightNorm
    magnitude_preserving: bool
    output_silu: bool
    uncertainty: bool
    average: Average
    attention_fp32: bool
    attention_resolutions: tuple[int, ...]
    dropout: float
    batch: int
    lr_ref: float
    lr_decay_batches: float
    lr_rampup_nimg: int
    adam_beta2: float
    loss_scaling: float
    p_mean: float
    p_std: float


A = TrainingConfig(
    name="EDM baseline",
    backbone="unet",
    objective="edm",
    noise_embedding="positional",
    embedding_layers=2,
    bias=True,
    ones_channel=False,
    scaled_labels=False,
    group_norm="standard",
    pixel_norm=False,
    attention="dot",
    initialization="zero_ends",
    weight_norm="none",
    magnitude_preserving=False,
    output_silu=True,
    uncertainty=False,
    average="traditional",
    attention_fp32=True,
    attention_resolutions=(32, 16, 8),
    dropout=0.10,
    batch=4096,
    lr_ref=1e-4,
    lr_decay_batches=inf,
    lr_rampup_nimg=10_000_000,
    adam_beta2=0.999,
    loss_scaling=100.0,
    p_mean=-1.2,
    p_std=1.2,
)
B = replace(
    A,
    name="Minor improvements",
    uncertainty=True,
    average="power",
    attention_resolutions=(16, 8),
    batch=2048,
    lr_ref=2e-4,
    adam_beta2=0.99,
    p_mean=-0.4,
    p_std=1.0,
)
C = replace(
    B,
    name="Architectural streamlining",
    noise_embedding="fourier",
    bias=False,
    ones_channel=True,
    scaled_labels=True,
    group_norm="no_mean",
    attention="cosine",
    attention_fp32=False,
    initialization="uniform",
)
D = replace(
    C,
    name="Magnitude-preserving learned layers",
    initialization="normal",
    weight_norm="forward",
    lr_ref=1e-2,
    loss_scaling=1.0,
)
E = replace(
    D,
    name="Control effective learning rate",
    weight_norm="forced",
    lr_decay_batches=70_000.0,
)
F = replace(
    E,
    name="Remove group normalizations",
    group_norm="none",
    pixel_norm=True,
    output_silu=False,
    embedding_layers=1,
)
G = replace(
    F,
    name="Magnitude-preserving fixed-function layers",
    noise_embedding="mp_fourier",
    magnitude_preserving=True,
    dropout=0.0,
)

CONFIGS: Registry[TrainingConfig] = Registry(
    "training config", {"A": A, "B": B, "C": C, "D": D, "E": E, "F": F, "G": G}
)
ConfigName = Annotated[str, one_of(CONFIGS)]
