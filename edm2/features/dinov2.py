"""DINOv2 ViT-L/14 (Oquab et al. 2023) as a detector: FD_DINOv2 (Stein et al. 2023)."""

from pathlib import Path

import torch
from torch import nn

from edm2.features.backbone import seen_in_parts
from edm2.features.weights import Weights, read_weights
from edm2.params import UserError

VIT_L_14 = Weights(
    file="dinov2_vitl14_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256=None,
    license="Apache-2.0",
    key="evaluation.detector_path",
)
DEPTH, HEADS = 24, 16
PATCH = 14  # pixels along a side
LEARNED = 37  # patches along a side that positions were learned for: images of 518×518
SIDE = 224  # pixels that images are resized to: 16×16 patches
OFFSET = 0.1  # that the publishers add to the number of patches when they resize positions
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per channel in [0, 1]
AT_ONCE = 64  # images: below 1 GiB in float32


class Block(nn.Module):
    """Attention, then two layers for each token; both scaled per channel and added."""

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
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        found: torch.Tensor = self.attn["proj"](seen.transpose(1, 2).flatten(2))
        return found


class Dinov2(nn.Module):
    """The `Detector` whose features are the normalized class token. Frozen; parameters have their
    published names.

    Images of any size are resized to 224×224, bicubic with antialiasing, as dgm-eval (Stein et al.
    2023) does it; in floating point, as EDM2 measures, so that nothing is rounded in between.
    """

    name = "dinov2"
    dims = 1024

    def __init__(self, fingerprint: str = "", depth: int = DEPTH) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + LEARNED**2, self.dims))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, self.dims, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(self.dims, HEADS) for _ in range(depth))
        self.norm = nn.LayerNorm(self.dims, eps=1e-6)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return seen_in_parts(images, AT_ONCE, lambda part: self(resized(part)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, S, S] in [0, 255], S a multiple of 14 → [N, 1024]."""
        mean, std = (255 * images.new_tensor(x).reshape(3, 1, 1) for x in (MEAN, STD))
        patches = self.patch_embed["proj"]((images - mean) / std)  # [N, D, S / 14, S / 14]
        tokens = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        x = x + self.positions(patches.shape[-1])
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.norm(x[:, 0])
        return found

    def positions(self, side: int) -> torch.Tensor:
        """Of the class token and of `side`×`side` patches, by bicubic interpolation: [1, 1 + S², D]."""
        if side == LEARNED:
            return self.pos_embed
        own, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, (LEARNED, LEARNED))  # [1, D, 37, 37]
        scale = (side + OFFSET) / LEARNED
        grid = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([own, grid.flatten(2).transpose(1, 2)], dim=1)


def resized(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, H, W] → float32 [N, 3, 224, 224] in the same range, but for overshoots."""
    return nn.functional.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True)


def load_dinov2(path: Path | None, device: torch.device) -> Dinov2:
    """DINOv2 ViT-L/14 as published (without registers).

    Its publisher tells no checksum: a file is taken for what it is by its tensors, and its own
    checksum becomes the detector's fingerprint.

    Args:
        path: a copy of the file; None for the cache, or a download into it.

    Raises:
        UserError: see `read_weights`; or names or shapes of tensors are others.
    """
    state, fingerprint = read_weights(VIT_L_14, path)
    state.pop("mask_token", None)  # of the training alone
    network = Dinov2(fingerprint, DEPTH)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    differing = {
        name
        for name in expected.keys() | state.keys()
        if name not in state or state[name].shape != expected.get(name)
    }
    if differing:
        raise UserError(
            f"{VIT_L_14.key}: expected the tensors of {VIT_L_14.url}; {len(differing)} are "
            f"missing, of another shape or too many, first {min(differing)}. Download it "
            "again, or set it to a copy."
        )
    network.load_state_dict(state)
    return network.to(device)
