"""The training configs of EDM2 Table 1, from the EDM baseline (A) to full magnitude preservation (G).

Read from top to bottom like the table: each config is its predecessor with the options that the
paper changes. The numbers are those of model size S on ImageNet-512 (64×64×4 latents; EDM2 Table 1,
Appendices B and D). `edm2/params/sizes.py` has the numbers of other sizes and datasets. Networks and
training code depend on the options, never on the name of a config.
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
    """One training config: options of the network and of its training.

    Attributes:
        name: as in Table 1.
        backbone: the raw network, a member of `edm2.params.seams.BACKBONES`.
        objective: preconditioning, noise distribution and loss, a member of
            `edm2.params.seams.OBJECTIVES`.
        noise_embedding: features of the noise level. positional: cosines and sines of fixed
            frequencies, with an embedding of four times the first level's width instead of the
            widest level's; fourier: random Fourier features; mp_fourier: those scaled to unit
            magnitude.
        embedding_layers: linear layers from the noise features to the embedding.
        bias: biases in all layers except the class embedding, and a shift in the conditioning.
        ones_channel: a constant channel of ones, concatenated to the network's input.
        scaled_labels: one-hot labels multiplied by √(number of classes).
        group_norm: standard: with mean subtraction, learned scale and bias; no_mean: without these;
            none: no group norm.
        pixel_norm: encoder blocks normalize each pixel on their main path. All blocks resample,
            and encoder blocks change channels, on the main path before the residual branch starts.
        attention: dot: scaled dot product, after a group norm; cosine: q, k and v normalized for
            each head and pixel.
        initialization: uniform: ±1/√fan-in; zero_ends: uniform, but zeros in the last layer of each
            branch and N(0, 1) in the class embedding; normal: N(0, 1).
        weight_norm: forward: weights are normalized in the forward pass; forced: they are also set
            back to norm √fan-in before each training step; none: neither.
        magnitude_preserving: SiLU, sums and concatenations preserve magnitude, and the conditioning
            and the output have learned gains.
        output_silu: a SiLU before the output convolution.
        uncertainty: the loss is weighted by a learned uncertainty of each noise level.
        average: traditional: one EMA of fixed length; power: power-function EMA, whose length is
            chosen after training.
        attention_fp32: attention is computed in fp32 in every precision.
        attention_resolutions: resolutions whose blocks have attention; the first block of the decoder
            always has.
        dropout: probability of dropout in the residual branches.
        batch: images per training step.
        lr_ref: reference learning rate α_ref.
        lr_decay_batches: t_ref, the number of training batches after which the learning rate
            decays as 1/√t; ∞: constant.
        lr_rampup_nimg: images over which the learning rate rises linearly from 0.
        adam_beta2: Adam's β₂.
        loss_scaling: factor on the loss before backpropagation.
        p_mean, p_std: mean and standard deviation of ln σ in training.
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


# Config A, Section 2.1: the ADM network with the preconditioning, noise distribution and loss of EDM
# (Karras et al. 2022). The starting point of the paper.
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

# Config B, Section 2.1 and Appendix B.2: tuned hyperparameters for a stronger baseline. EDM's loss
# weighting balances noise levels only at initialization; a learned uncertainty keeps them balanced
# (eq. 14). From here on the EMA length is chosen after training (Section 3).
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

# Config C, Section 2.1 and Appendix B.3: a simpler network, whose training dynamics are easier to
# analyze. Weights are the only kind of trainable parameter: no biases (the constant channel takes
# over their role), no learned scales in group norms, one initialization for all layers. Cosine
# attention prevents spiky attention maps from growing q and k, and allows 16 bits throughout.
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

# Config D, Section 2.2: activations grow throughout the training of C. Each learned layer now divides
# its weights by their norm, so that its output has the magnitude of its input (eq. 47). The learning
# rate and the loss scaling suit weights of unit variance.
D = replace(
    C,
    name="Magnitude-preserving learned layers",
    initialization="normal",
    weight_norm="forward",
    lr_ref=1e-2,
    loss_scaling=1.0,
)

# Config E, Section 2.3: the weights of D grow, which lowers the effective learning rate (the update
# relative to the weights) in an uncontrolled way. Weights are set back to a fixed norm before each
# step, and an explicit schedule lowers the learning rate instead (eq. 67).
E = replace(
    D,
    name="Control effective learning rate",
    weight_norm="forced",
    lr_decay_batches=70_000.0,
)

# Config F, Section 2.4: group norms work across pixels, which may be harmful, and are not needed now
# that magnitudes are under control. A much weaker pixel norm in the encoder replaces them, as it
# still helps a little. Also simpler: one embedding layer, and no SiLU at the output.
F = replace(
    E,
    name="Remove group normalizations",
    group_norm="none",
    pixel_norm=True,
    output_silu=False,
    embedding_layers=1,
)

# Config G, Section 2.5: the remaining fixed functions preserve magnitude too: Fourier features, SiLU,
# sums and concatenations (eq. 75, 81, 88, 103). Learned gains, initially zero, let the network scale
# its conditioning and its output. At this size dropout is no longer used.
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
