"""DINOv2 ViT-L/14 (Oquab et al. 2023) as a detector: FD_DINOv2 (Stein et al. 2023)."""

from pathlib import Path

import torch
from torch import nn

from edm2.features import imagenet
from edm2.features.backbone import features_in_batches
from edm2.features.weights import PublishedWeights, load_weights
from edm2.params import UserError

DINOV2_WEIGHTS = PublishedWeights(
    file="dinov2_vitl14_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256=None,
    license="Apache-2.0",
    key="evaluation.detector_path (or vae.detector_path, --detector-path)",
)
DEPTH, NUM_HEADS = 24, 16
PATCH_SIZE = 14  # pixels along a side
TRAINED_GRID = 37  # patches along a side in the trained position embedding: images of 518×518
IMAGE_SIZE = 224  # images are resized to this: 16×16 patches
INTERPOLATE_OFFSET = 0.1  # the published code adds it to the number of patches before interpolation
MAX_BATCH_SIZE = 64  # below 1 GiB in float32


class Block(nn.Module):
    """A transformer block with LayerScale: attention, then an MLP per token; both are residual."""

    def __init__(self, dims: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(dims, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dims, 3 * dims), "proj": nn.Linear(dims, dims)})
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(dims, 4 * dims), "fc2": nn.Linear(4 * dims, dims)}
        )
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.ones(dims)}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, D] → [N, T, D]"""
        x = x + self.ls1["gamma"] * self._attention(self.norm1(x))
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.ls2["gamma"] * self.mlp["fc2"](hidden)

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.attn["qkv"](x).unflatten(2, (3, self.heads, -1))  # [N, T, 3, heads, D / heads]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, T, D / heads]
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        output: torch.Tensor = self.attn["proj"](heads.transpose(1, 2).flatten(2))  # [N, T, D]
        return output


class Dinov2(nn.Module):
    """The `Detector` whose features are the normalized class token. Frozen.

    Parameters have their published names. Images of any size are resized to 224×224, bicubic with
    antialiasing, as in dgm-eval (Stein et al. 2023), but in floating point as in EDM2, so without
    rounding to uint8.
    """

    name = "dinov2"
    dims = 1024

    def __init__(self, fingerprint: str = "", depth: int = DEPTH) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, self.dims))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, self.dims, PATCH_SIZE, stride=PATCH_SIZE)}
        )
        self.blocks = nn.ModuleList(Block(self.dims, NUM_HEADS) for _ in range(depth))
        self.norm = nn.LayerNorm(self.dims, eps=1e-6)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return features_in_batches(images, MAX_BATCH_SIZE, lambda batch: self(resize(batch)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, S, S] in [0, 255], S a multiple of 14 → [N, 1024]."""
        scales = (255 * torch.tensor(x).reshape(3, 1, 1) for x in (imagenet.MEAN, imagenet.STD))
        mean, std = (scale.to(images.device, non_blocking=True) for scale in scales)
        patches = self.patch_embed["proj"]((images - mean) / std)  # [N, D, S / 14, S / 14]
        tokens = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        x = x + self.position_embedding(patches.shape[-1])
        for block in self.blocks:
            x = block(x)
        features: torch.Tensor = self.norm(x[:, 0])
        return features

    def position_embedding(self, side: int) -> torch.Tensor:
        """For the class token and `side`×`side` patches, by bicubic interpolation: [1, 1 + S², D]."""
        if side == TRAINED_GRID:
            return self.pos_embed
        class_token, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, (TRAINED_GRID, TRAINED_GRID))  # [1, D, 37, 37]
        scale = (side + INTERPOLATE_OFFSET) / TRAINED_GRID
        grid = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([class_token, grid.flatten(2).transpose(1, 2)], dim=1)


def resize(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, H, W] → float32 [N, 3, 224, 224]; the bicubic filter can overshoot [0, 255]."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return nn.functional.interpolate(images.float(), size, mode="bicubic", antialias=True)


def load_dinov2(path: Path | None, device: torch.device) -> Dinov2:
    """DINOv2 ViT-L/14 as published (without registers).

    No checksum is published, so the file is checked by the names and shapes of its tensors. Its
    SHA-256 becomes the detector's fingerprint.

    Args:
        path: the weights file; None: the cache, or a download into it.

    Raises:
        UserError: see `load_weights`; or the tensors' names or shapes are not those of ViT-L/14.
    """
    state, fingerprint = load_weights(DINOV2_WEIGHTS, path)
    state.pop("mask_token", None)  # only training uses it
    network = Dinov2(fingerprint, DEPTH)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    differing = {
        name
        for name in expected.keys() | state.keys()
        if name not in state or state[name].shape != expected.get(name)
    }
    if differing:
        raise UserError(
            f"{DINOV2_WEIGHTS.key}: expected the tensors of {DINOV2_WEIGHTS.url}, found "
            f"{len(differing)} that are missing, unexpected or of another shape, first "
            f"{min(differing)}. Download the file again, or set {DINOV2_WEIGHTS.key} to a copy."
        )
    network.load_state_dict(state)
    return network.to(device)
