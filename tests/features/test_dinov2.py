"""DINOv2 as a detector, with random weights, compared with torchvision's transformer."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_detectors import random_dinov2, write_dinov2
from torchvision.models import VisionTransformer

from edm2.features.dinov2 import DINOV2_WEIGHTS, Dinov2, load_dinov2, resize
from edm2.params import UserError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ours() -> Dinov2:
    return random_dinov2(depth=2)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)


def cubic(new: int, old: int, step: float) -> np.ndarray:
    """Weights [new, old] of cubic convolution (Keys 1981, a = −3/4), with repeated borders."""

    def kernel(t: float) -> float:
        a, t = -0.75, abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    weights = np.zeros((new, old))
    for i in range(new):
        position = (i + 0.5) * step - 0.5
        for k in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            weights[i, min(max(k, 0), old - 1)] += kernel(position - k)
    return weights


def interpolated(pos_embed: torch.Tensor) -> torch.Tensor:
    """The 37×37 embeddings at 16×16 points that are 37 / 16.1 apart, as in DINOv2's published code."""
    grid = pos_embed[0, 1:].double().numpy().reshape(37, 37, -1)
    weights = cubic(16, 37, 37 / 16.1)
    grid = np.einsum("ia,jb,abd->ijd", weights, weights, grid)
    return torch.cat([pos_embed[0, :1], torch.from_numpy(grid).float().flatten(0, 1)])[None]


def torchvision_vit(ours: Dinov2) -> VisionTransformer:
    """The same network: LayerScale is folded into the weights of the layer before it."""
    network = VisionTransformer(
        image_size=224,
        patch_size=14,
        num_layers=2,
        num_heads=16,
        hidden_dim=1024,
        mlp_dim=4096,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )
    network.heads = torch.nn.Identity()
    state, dino = {}, ours.state_dict()
    state["class_token"] = dino["cls_token"]
    state["encoder.pos_embedding"] = interpolated(dino["pos_embed"])
    for kind in ("weight", "bias"):
        state[f"conv_proj.{kind}"] = dino[f"patch_embed.proj.{kind}"]
        state[f"encoder.ln.{kind}"] = dino[f"norm.{kind}"]
        for k in range(2):
            theirs, block = f"encoder.layers.encoder_layer_{k}", f"blocks.{k}"
            scale = [dino[f"{block}.ls{j}.gamma"] for j in (1, 2)]
            if kind == "weight":
                scale = [x[:, None] for x in scale]
            state |= {
                f"{theirs}.ln_1.{kind}": dino[f"{block}.norm1.{kind}"],
                f"{theirs}.ln_2.{kind}": dino[f"{block}.norm2.{kind}"],
                f"{theirs}.self_attention.in_proj_{kind}": dino[f"{block}.attn.qkv.{kind}"],
                f"{theirs}.self_attention.out_proj.{kind}": scale[0]
                * dino[f"{block}.attn.proj.{kind}"],
                f"{theirs}.mlp.0.{kind}": dino[f"{block}.mlp.fc1.{kind}"],
                f"{theirs}.mlp.3.{kind}": scale[1] * dino[f"{block}.mlp.fc2.{kind}"],
            }
    network.load_state_dict(state)
    return network.eval()


def test_features_agree_with_torchvisions_transformer(ours):
    images = pixels(2, 224, 224)
    mean, std = (
        torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected = torchvision_vit(ours)((images / 255 - mean) / std)
    assert expected.std(0).mean() > 0.01
    torch.testing.assert_close(ours.features(images), expected, rtol=1e-3, atol=1e-4)


def test_layer_norms_have_the_published_epsilon(ours):
    """Features of random weights vary too much to depend on it."""
    norms = [m for m in ours.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert [m.eps for m in norms] == [1e-6] * (2 * 2 + 1)


def test_position_embedding_is_not_interpolated_at_the_trained_size(ours):
    assert ours.position_embedding(37) is ours.pos_embed


@pytest.mark.parametrize("size", [(16, 16), (500, 300), (224, 224), (100, 400)])
def test_images_are_resized_as_by_pillow_without_rounding(size):
    image = pixels(1, *size)
    resized = resize(image)
    assert (resized.shape, resized.dtype) == ((1, 3, 224, 224), torch.float32)
    for plane, resized_plane in zip(image[0], resized[0], strict=True):
        pil_image = Image.fromarray(plane.numpy().astype(np.float32))
        expected = pil_image.resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(resized_plane, np.asarray(expected), atol=0.01)


def test_resizing_preserves_images_of_224_and_constant_images(ours):
    image = pixels(1, 224, 224)
    torch.testing.assert_close(resize(image), image.float(), rtol=0, atol=1e-4)
    constant = [torch.full((1, 3, h, w), 90, dtype=torch.uint8) for h, w in ((7, 5), (300, 400))]
    torch.testing.assert_close(*map(ours.features, constant), rtol=1e-4, atol=1e-4)


def test_the_whole_network_has_the_tensors_of_vit_l():
    """By hand: per block 3·D² + 3·D, D² + D, 4·D² + 4·D, 4·D² + D, two norms, two scales; D = 1024."""
    with torch.device("meta"):
        tensors = Dinov2().state_dict()
    d = 1024
    block = 12 * d**2 + 9 * d + 4 * d + 2 * d
    rest = d * 3 * 14 * 14 + d + d + (1 + 37**2) * d + 2 * d  # patches, class, positions, norm
    assert sum(t.numel() for t in tensors.values()) == 24 * block + rest
    assert len(tensors) == 24 * 14 + 6


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("missing", "norm.bias"),
        ("shape", "norm.bias"),
        ("unexpected", "register_tokens"),
        ("truncated", "copy.pth"),
    ],
)
def test_other_tensors_are_refused_by_name(tmp_path: Path, monkeypatch, damage, named):
    """No checksum is published that the file could be compared with."""
    path = write_dinov2(tmp_path / "copy.pth", monkeypatch)
    state = torch.load(path, weights_only=True)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        if damage == "missing":
            del state["norm.bias"]
        else:
            state[named] = torch.zeros(1, 4, 1024)
        torch.save(state, path)
    with pytest.raises(UserError) as error:
        load_dinov2(path, CPU)
    for part in (named, DINOV2_WEIGHTS.url, "evaluation.detector_path"):
        assert part in str(error.value)
