"""DINOv2 as a detector, with random weights; torchvision's transformer beside it."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_detectors import random_dinov2, write_dinov2
from torchvision.models import VisionTransformer

from edm2.features import dinov2
from edm2.features.dinov2 import VIT_L_14, Dinov2, load_dinov2, resized
from edm2.params import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ours() -> Dinov2:
    return random_dinov2(depth=2)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)


def cubic(new: int, old: int, step: float) -> np.ndarray:
    """Weights [new, old] of cubic convolution (Keys 1981, a = −3/4), borders repeating."""

    def kernel(t: float) -> float:
        a, t = -0.75, abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    found = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * step - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            found[i, min(max(k, 0), old - 1)] += kernel(place - k)
    return found


def positions(learned: torch.Tensor) -> torch.Tensor:
    """37×37 learned ones at 16×16 places that are 37 / 16.1 apart, as DINOv2's publishers resize."""
    grid = learned[0, 1:].double().numpy().reshape(37, 37, -1)
    weights = cubic(16, 37, 37 / 16.1)
    grid = np.einsum("ia,jb,abd->ijd", weights, weights, grid)
    return torch.cat([learned[0, :1], torch.from_numpy(grid).float().flatten(0, 1)])[None]


def torchvisions(ours: Dinov2) -> VisionTransformer:
    """The same network: what scales a layer's output is folded into the layer."""
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
    state, own = {}, ours.state_dict()
    state["class_token"] = own["cls_token"]
    state["encoder.pos_embedding"] = positions(own["pos_embed"])
    for kind in ("weight", "bias"):
        state[f"conv_proj.{kind}"] = own[f"patch_embed.proj.{kind}"]
        state[f"encoder.ln.{kind}"] = own[f"norm.{kind}"]
        for k in range(2):
            there, here = f"encoder.layers.encoder_layer_{k}", f"blocks.{k}"
            scale = [own[f"{here}.ls{j}.gamma"] for j in (1, 2)]
            if kind == "weight":
                scale = [x[:, None] for x in scale]
            state |= {
                f"{there}.ln_1.{kind}": own[f"{here}.norm1.{kind}"],
                f"{there}.ln_2.{kind}": own[f"{here}.norm2.{kind}"],
                f"{there}.self_attention.in_proj_{kind}": own[f"{here}.attn.qkv.{kind}"],
                f"{there}.self_attention.out_proj.{kind}": scale[0]
                * own[f"{here}.attn.proj.{kind}"],
                f"{there}.mlp.0.{kind}": own[f"{here}.mlp.fc1.{kind}"],
                f"{there}.mlp.3.{kind}": scale[1] * own[f"{here}.mlp.fc2.{kind}"],
            }
    network.load_state_dict(state)
    return network.eval()


def test_features_are_those_of_torchvisions_transformer(ours):
    images = pixels(2, 224, 224)
    mean, std = (
        torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected = torchvisions(ours)((images / 255 - mean) / std)
    assert expected.std(0).mean() > 0.01
    torch.testing.assert_close(ours.features(images), expected, rtol=1e-3, atol=1e-4)


def test_norms_guard_against_zero_as_published(ours):
    """Random features are too wide for it to show."""
    norms = [m for m in ours.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert [m.eps for m in norms] == [1e-6] * (2 * 2 + 1)


def test_at_the_size_of_the_training_positions_are_as_learned(ours):
    assert ours.positions(37) is ours.pos_embed


@pytest.mark.parametrize("size", [(16, 16), (500, 300), (224, 224), (100, 400)])
def test_images_are_resized_by_pils_bicubic_filter_without_rounding(size):
    image = pixels(1, *size)
    found = resized(image)
    assert (found.shape, found.dtype) == ((1, 3, 224, 224), torch.float32)
    for plane, ours in zip(image[0], found[0], strict=True):
        picture = Image.fromarray(plane.numpy().astype(np.float32))
        expected = picture.resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours, np.asarray(expected), atol=0.01)


def test_resizing_loses_nothing_of_images_of_224_and_of_flat_ones(ours):
    image = pixels(1, 224, 224)
    torch.testing.assert_close(resized(image), image.float(), rtol=0, atol=1e-4)
    flat = [torch.full((1, 3, h, w), 90, dtype=torch.uint8) for h, w in ((7, 5), (300, 400))]
    torch.testing.assert_close(*map(ours.features, flat), rtol=1e-4, atol=1e-4)


def test_the_whole_network_has_the_tensors_of_vit_l():
    """By hand: per block 3·D² + 3·D, D² + D, 4·D² + 4·D, 4·D² + D, two norms, two scales; D = 1024."""
    with torch.device("meta"):
        tensors = Dinov2().state_dict()
    d = 1024
    block = 12 * d**2 + 9 * d + 4 * d + 2 * d
    around = d * 3 * 14 * 14 + d + d + (1 + 37**2) * d + 2 * d  # patches, class, positions, norm
    assert sum(t.numel() for t in tensors.values()) == 24 * block + around
    assert len(tensors) == 24 * 14 + 6


def test_loaded_from_a_path_and_from_the_cache(tmp_path: Path, monkeypatch):
    path, images = write_dinov2(tmp_path / "mine.pth", monkeypatch), pixels(1, 8, 8)
    expected = random_dinov2(depth=1).features(images)
    loaded = load_dinov2(path, CPU)
    assert torch.equal(loaded.features(images), expected)
    assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    path.rename(tmp_path / "cache" / VIT_L_14.file)
    assert torch.equal(load_dinov2(None, CPU).features(images), expected)


@pytest.mark.parametrize("harm", ["missing", "shape", "more", "truncated"])
def test_other_tensors_are_refused_by_name(tmp_path: Path, monkeypatch, harm):
    """There is no checksum to hold the file against."""
    path = write_dinov2(tmp_path / "mine.pth", monkeypatch)
    state = torch.load(path, weights_only=True)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        if harm == "missing":
            del state["norm.bias"]
        else:
            state["norm.bias" if harm == "shape" else "register_tokens"] = torch.zeros(1, 4, 1024)
        torch.save(state, path)
    told = {"truncated": f"{path}: expected .*truncated", "more": "1 are .* first register_tokens"}
    with pytest.raises(UserError, match=told.get(harm, r"1 are .* first norm\.bias")) as error:
        load_dinov2(path, CPU)
    assert VIT_L_14.url in str(error.value)
    assert "evaluation.detector_path" in str(error.value)


def test_without_weights_address_and_place_are_told(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    nowhere = replace(VIT_L_14, url="http://127.0.0.1:1/weights.pth")
    monkeypatch.setattr(dinov2, "VIT_L_14", nowhere)
    with pytest.raises(UserError) as error:
        load_dinov2(None, CPU)
    for said in (nowhere.url, str(tmp_path / nowhere.file), "evaluation.detector_path"):
        assert said in str(error.value)
