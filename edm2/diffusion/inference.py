"""The denoiser in a form for sampling: the same function, with everything constant computed once.

Weights are normalized once. Constants that stand before or behind a linear map are factors of its
weight: SiLU's 1/0.596 (eq. 81), the shares of sums (eq. 88), the gains, and the scale of labels. A
convolution of an upsampled image is one transposed convolution (see `upsampling_kernel`), and the
linear functions of the embedding in all blocks are one. What is left changes tensors in place.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.blocks import Block, Conditioning
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.inference_blocks import Convolution, Form, InferenceBlock, Linear, constants
from edm2.diffusion.layers import SILU_MAGNITUDE, Layer, mp_cat_shares, mp_sum_shares
from edm2.diffusion.unet import LABEL_BALANCE, SKIP_BALANCE, Embedding, Unet


def prepare_for_inference(
    denoiser: Denoiser,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> nn.Module:
    """A function equal to `denoiser` in evaluation mode, up to rounding, without gradients.

    It has copies of the weights, which later changes of `denoiser` do not reach. Denoisers whose raw
    network is not a `Unet`, but a plug-in's, are returned as they are.

    Args:
        dtype: of activations and of the weights of convolutions; None: as in `denoiser`.
        memory_format: of activations and weights.

    Returns:
        a module called like `Denoiser`: x float32 [N, C, R, R], sigma float32 [N], labels → float32
        [N, C, R, R].
    """
    if type(denoiser.unet) is not Unet:
        return denoiser
    return InferenceDenoiser(denoiser, Form(dtype or denoiser.dtype, memory_format))


class InferenceDenoiser(nn.Module):
    """`Denoiser` around `InferenceUnet`."""

    def __init__(self, denoiser: Denoiser, form: Form) -> None:
        super().__init__()
        self.objective, self.form = denoiser.objective, form
        assert isinstance(denoiser.unet, Unet)
        self.unet = InferenceUnet(denoiser.unet, form).eval()

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        x, sigma = x.float(), sigma.float()
        c = self.objective.precondition(sigma)
        c_skip, c_out, c_in = (k[:, None, None, None] for k in (c.c_skip, c.c_out, c.c_in))
        inputs = (c_in * x).to(self.form.dtype, memory_format=self.form.memory_format)
        raw = self.unet(inputs, c.c_noise, labels)
        return (c_skip * x).addcmul_(c_out, raw.float())


class InferenceUnet(nn.Module):
    """`Unet` with constant weights; labels are those of `Denoiser`."""

    def __init__(self, unet: Unet, form: Form) -> None:
        super().__init__()
        self.config, self.form = unet.config, form
        self.map = InferenceEmbedding(unet.map)
        blocks = [m for m in (*unet.enc.values(), *unet.dec.values()) if isinstance(m, Block)]
        self.conditioning = InferenceConditioning([block.conditioning for block in blocks])
        self.enc = nn.ModuleList(_part(module, form) for module in unet.enc.values())
        self.dec = nn.ModuleList(_part(module, form) for module in unet.dec.values())
        self.takes_skip = ["-block" in name for name in unet.dec]
        self.out_norm = copy.deepcopy(unet.out_norm)
        gain = 1.0 if unet.out_gain is None else unet.out_gain
        self.out_conv = Convolution(unet.out_conv, form, gain)

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        conditions = iter(self.conditioning(self.map(c_noise, labels), self.form.dtype))
        if self.config.ones_channel:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for part in self.enc:
            x = part(x, *next(conditions)) if isinstance(part, InferenceBlock) else part(x)
            skips.append(x)
        for part, takes_skip in zip(self.dec, self.takes_skip, strict=True):
            if takes_skip:
                x = self._cat(x, skips.pop())
            x = part(x, *next(conditions))
        if self.out_norm is not None:
            x = self.out_norm(x)
        out: torch.Tensor = self.out_conv(F.silu(x) if self.config.output_silu else x)
        return out

    def _cat(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """A concatenation whose parts are scaled while they are copied."""
        if not self.config.magnitude_preserving:
            return torch.cat([a, b], dim=1)
        channels, other_channels = a.shape[1], b.shape[1]
        share_a, share_b = mp_cat_shares(channels, other_channels, SKIP_BALANCE)
        out = torch.empty(
            (a.shape[0], channels + other_channels, *a.shape[2:]),
            dtype=a.dtype,
            device=a.device,
            memory_format=self.form.memory_format,
        )
        torch.mul(a, share_a, out=out[:, :channels])
        torch.mul(b, share_b, out=out[:, channels:])
        return out


class InferenceEmbedding(nn.Module):
    """`Embedding`, in fp32. Its last SiLU is not scaled; the embeddings of classes are a table."""

    table: torch.Tensor | None  # [1 + num_classes, width]; the first row is that of no class

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        config, label = embedding.config, embedding.label
        share, label_share = 1.0, 1.0
        if config.magnitude_preserving and label is not None:
            share, label_share = mp_sum_shares(LABEL_BALANCE)
        self.features = copy.deepcopy(embedding.features)
        self.layer0 = Linear(embedding.layer0, share=1.0 if embedding.layer1 else share)
        self.layer1 = Linear(embedding.layer1, share=share) if embedding.layer1 else None
        table = None
        if label is not None:
            scale = math.sqrt(label.weight.shape[1]) if config.scaled_labels else 1.0
            table = F.pad(constants(label, scale, label_share)[0].T, (0, 0, 1, 0))
        self.register_buffer("table", table)

    def forward(self, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        x: torch.Tensor = self.layer0(self.features(c_noise))
        if self.layer1 is not None:
            x = self.layer1(F.silu(x))
        if self.table is not None and labels is not None:
            is_index = not labels.is_floating_point()
            x += (
                self.table[labels.clamp(min=-1) + 1]
                if is_index
                else labels.float() @ self.table[1:]
            )
        return F.silu(x)


class InferenceConditioning(nn.Module):
    """The linear functions of all blocks' `Conditioning`, as one matrix product in fp32."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, parts: Sequence[Conditioning]) -> None:
        super().__init__()
        self.has_shift = parts[0].has_shift
        affine = [Linear(part.affine, _conditioning_gain(part)) for part in parts]
        self.register_buffer("weight", torch.cat([linear.weight for linear in affine]))
        biases = [linear.bias for linear in affine if linear.bias is not None]
        self.register_buffer("bias", torch.cat(biases) if biases else None)
        self.sizes = [part.affine.weight.shape[0] for part in parts]

    def forward(
        self, embedding: torch.Tensor, dtype: torch.dtype
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Factor 1 + scale and shift of each block, [N, C, 1, 1]; without biases the shift is None."""
        conditions: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        every = F.linear(embedding, self.weight, self.bias)[:, :, None, None]
        for values in every.split(self.sizes, dim=1):
            scale, shift = values.chunk(2, dim=1) if self.has_shift else (values, None)
            conditions.append(((1 + scale).to(dtype), None if shift is None else shift.to(dtype)))
        return conditions


def _conditioning_gain(part: Conditioning) -> torch.Tensor | float:
    """Learned gain, and the factor of the SiLU at the end of the embedding."""
    return 1.0 if part.gain is None else part.gain / SILU_MAGNITUDE


def _part(module: nn.Module, form: Form) -> nn.Module:
    """A part of the encoder or decoder: a block, or the first convolution."""
    if isinstance(module, Block):
        return InferenceBlock(module, form)
    assert isinstance(module, Layer)
    return Convolution(module, form)
