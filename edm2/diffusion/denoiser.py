"""The denoiser D(x; σ, c): preconditioning around the raw network, and the uncertainty head."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.backbone import Backbone, Shape
from edm2.diffusion.layers import Layer, force_norms, fourier_embedding
from edm2.diffusion.objective import Objective
from edm2.params.configs import CONFIGS, ConfigName, TrainingConfig
from edm2.params.resolution import at_size
from edm2.params.seams import BACKBONES, OBJECTIVES
from edm2.params.sizes import SIZES, Size

T = TypeVar("T")
UNCERTAINTY_CHANNELS = 128


class Denoiser(nn.Module):
    """D = c_skip·x + c_out·F(c_in·x; c_noise, c) (Karras et al. 2022, Table 1).

    Attributes:
        unet: the raw network F.
        dtype: precision of its activations.
        origin: the exported folder that its weights come from, if it was made by `from_pretrained`.
    """

    origin: Path | None = None

    def __init__(
        self, config: TrainingConfig, shape: Shape, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config, self.shape, self.dtype = config, shape, dtype
        self.objective: Objective = OBJECTIVES[config.objective](config)
        self.unet: Backbone = BACKBONES[config.backbone](config, shape)
        self.head = Uncertainty(config) if config.uncertainty else None

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The denoised x, float32 [N, C, R, R].

        Args:
            x: noisy data float32 [N, C, R, R], of data with standard deviation 0.5.
            sigma: noise level float32 [N], above 0.
            labels: class indices int64 [N], −1 for no class, or one-hot float [N, num_classes];
                None: no class.
        """
        x, sigma = x.float(), sigma.float()
        c = self.objective.precondition(sigma)
        c_skip, c_out, c_in = (k[:, None, None, None] for k in (c.c_skip, c.c_out, c.c_in))
        labels = self._one_hot(labels, len(x), x.device)
        raw = self.unet((c_in * x).to(self.dtype), c.c_noise, labels)
        return c_skip * x + c_out * raw.float()

    def uncertainty(self, sigma: torch.Tensor) -> torch.Tensor:
        """u(σ), the logarithm of the loss's variance at each noise level (EDM2 eq. 15): [N] → [N].

        Zero if the config does not learn it.
        """
        if self.head is None:
            return torch.zeros_like(sigma)
        u: torch.Tensor = self.head(self.objective.precondition(sigma).c_noise)
        return u

    def force_norms(self) -> None:
        """Set all weights back to norm √fan-in if the config forces norms; called before each step."""
        force_norms(self)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "Denoiser":
        """A network of an exported folder, or of the Hugging Face Hub, frozen, on the CPU.

        Args:
            name: a folder with `model.safetensors` and `config.json`, as `edm2 export network` writes; a
                safetensors file with a `config.json` beside it; or a repository owner/name.
            options: for the Hub: of `huggingface_hub.snapshot_download`, such as revision, token, cache_dir.

        Raises:
            UserError: there is no such network, or it is damaged or not one of edm2.
            NotFiniteError: a weight is not finite.
        """
        from edm2.diffusion.pretrained import from_pretrained  # it imports this module

        return from_pretrained(name, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for `from_pretrained`.

        It has the codec and the card of the folder that the network comes from; the card only if the
        weights are the same. Without such a folder it makes latents, not images.

        Raises:
            UserError: the folder exists.
            NotFiniteError: a weight is not finite.
        """
        from edm2.diffusion.pretrained import save_pretrained

        save_pretrained(self, Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face Hub; returns its address.

        Args:
            repo_id: owner/name; the repository is made if there is none.
            options: of `huggingface_hub.ModelHubMixin.push_to_hub`, such as private, token, branch,
                commit_message.

        Raises:
            UserError: the package huggingface_hub is missing, or the upload fails.
        """
        from edm2.diffusion.hub_upload import push_to_hub

        return push_to_hub(self, repo_id, **options)

    def _one_hot(
        self, labels: torch.Tensor | None, count: int, device: torch.device
    ) -> torch.Tensor | None:
        classes = self.shape.num_classes
        if classes == 0:
            return None
        if labels is None:
            return torch.zeros(count, classes, device=device)
        if labels.is_floating_point():
            return labels.float()
        return F.one_hot(labels.clamp(min=0), classes).float() * (labels >= 0)[:, None]


class Uncertainty(nn.Module):
    """u(σ): one linear layer on Fourier features of the noise level (EDM2 Appendix B.2).

    Fourier features also in configs whose embedding is positional: the frequencies of the latter are
    too low for the curve. c_noise float32 [N] → float32 [N].
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.features = fourier_embedding(config, UNCERTAINTY_CHANNELS)
        self.linear = Layer(config, UNCERTAINTY_CHANNELS, 1, kernel=0)

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(self.features(c_noise)).squeeze(1)
        return out


def build_denoiser(
    config: ConfigName | TrainingConfig = "G",
    size: Size | None = None,
    channels: int | None = None,
    *,
    resolution: int = 64,
    in_channels: int = 4,
    num_classes: int = 1000,
    channel_mult: Sequence[int] = (1, 2, 3, 4),
    res_blocks: int = 3,
    attention_resolutions: Sequence[int] | None = None,
    dropout: float | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Denoiser:
    """A denoiser with newly initialized weights.

    Args:
        config: name of a training config, or a complete custom one.
        size: model size of the paper; "S" if both it and `channels` are None. If `config` is a
            name, the size also sets dropout and learning rate (EDM2 Table 6).
        channels: width of the first level, instead of a size.
        resolution, in_channels: of the data; 64 and 4 are the paper's latents.
        num_classes: 0 for an unconditional network.
        channel_mult: width of each level as a multiple of `channels`.
        res_blocks: residual blocks per level of the encoder; the decoder has one more.
        attention_resolutions, dropout: None keeps the config's.
        dtype: precision of activations; parameters are float32.

    Raises:
        ValueError: both size and channels are given, a name is unknown, or a number has no network.
    """
    if size is not None and channels is not None:
        raise ValueError(f"size {size!r} and channels {channels}: expected only one of them")
    if channels is None:
        size = size or "S"
        channels = _lookup(SIZES, "size", size).channels
    if not isinstance(config, TrainingConfig):
        config = at_size(_lookup(CONFIGS, "config", config), size)
    if attention_resolutions is not None:
        config = replace(config, attention_resolutions=tuple(attention_resolutions))
    if dropout is not None:
        config = replace(config, dropout=dropout)
    shape = Shape(resolution, in_channels, num_classes, channels, tuple(channel_mult), res_blocks)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Denoiser(config, shape, _lookup(dtypes, "dtype", dtype))


def _lookup(choices: Mapping[Any, T], kind: str, name: object) -> T:
    if name not in choices:
        raise ValueError(f"{kind} {name!r}: expected one of {', '.join(choices)}")
    return choices[name]
