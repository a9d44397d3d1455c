"""VGG16 as a backbone, with random weights, compared with the package lpips."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lpips
import pytest
import torch
import torchvision

from edm2.features import vgg
from edm2.features.vgg import VGG16_WEIGHTS, Vgg16, load_vgg16, lpips_weights
from edm2.params import UserError
from edm2.vae.losses import perceptual_loss

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*weights:UserWarning:torchvision"),
]


@pytest.fixture(scope="module")
def theirs() -> lpips.LPIPS:
    """LPIPS with random VGG16 weights and its published channel weights."""
    torch.manual_seed(0)
    return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def ours(theirs: lpips.LPIPS) -> Vgg16:
    features = {name.partition(".")[2]: tensor for name, tensor in theirs.net.state_dict().items()}
    ours = Vgg16(lpips_weights())
    ours.features.load_state_dict(features)
    return ours


@pytest.fixture
def pair() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    a = torch.rand(3, 3, 32, 32) * 2 - 1
    return a, (a + 0.3 * torch.randn(3, 3, 32, 32)).clamp(-1, 1)


def test_perceptual_loss_agrees_with_lpips(theirs: lpips.LPIPS, ours: Vgg16, pair) -> None:
    expected = theirs(*pair).mean()
    assert expected > 1e-3
    torch.testing.assert_close(perceptual_loss(ours)(*pair), expected, rtol=1e-4, atol=0)


def test_slices_agree_with_lpips(theirs: lpips.LPIPS, ours: Vgg16, pair) -> None:
    expected = theirs.net(theirs.scaling_layer(pair[0]))
    for slice_map, expected_map in zip(ours.slices(pair[0]), expected, strict=True):
        torch.testing.assert_close(slice_map, expected_map, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [16, 24, 64])
def test_slices_halve_the_resolution_four_times(ours: Vgg16, side: int) -> None:
    maps = ours.slices(torch.rand(2, 3, side, side) * 2 - 1)
    assert [tuple(x.shape) for x in maps] == [
        (2, width, side // factor, side // factor)
        for width, factor in zip((64, 128, 256, 512, 512), (1, 2, 4, 8, 16), strict=True)
    ]
    assert all((x >= 0).all() and x.dtype == torch.float32 for x in maps)
    assert [len(w) for w in ours.channel_weights] == [x.shape[1] for x in maps]


def test_images_are_normalized_by_imagenet_statistics() -> None:
    """White is 1 in [-1, 1] and in [0, 1]; black is -1 and 0."""
    vgg_without_layers = Vgg16(lpips_weights())
    vgg_without_layers.features = torch.nn.Sequential()
    for value, unit in ((1.0, 1.0), (-1.0, 0.0)):
        (normalized,) = vgg_without_layers.slices(torch.full((1, 3, 1, 1), value))
        expected = [(unit - 0.485) / 0.229, (unit - 0.456) / 0.224, (unit - 0.406) / 0.225]
        torch.testing.assert_close(normalized.flatten(), torch.tensor(expected))


def test_perceptual_loss_is_a_distance(ours: Vgg16, pair) -> None:
    loss, (a, b) = perceptual_loss(ours), pair
    assert float(loss(a, a)) == 0
    assert float(loss(a, b)) == pytest.approx(float(loss(b, a)), rel=1e-5)
    assert 0 < float(loss(a, a + 0.1 * (b - a))) < float(loss(a, b))


def test_gradients_reach_only_the_reconstruction(ours: Vgg16, pair) -> None:
    images, reconstruction = (x.requires_grad_() for x in pair)
    perceptual_loss(ours)(images, reconstruction).backward()
    assert torch.isfinite(reconstruction.grad).all()
    assert reconstruction.grad.abs().max() > 0
    assert images.grad is None
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.training


def test_gradients_are_finite_if_no_channel_is_active(pair) -> None:
    dead = Vgg16(lpips_weights())
    dead.features[0].weight.zero_()
    dead.features[0].bias.fill_(-1.0)  # no channel of the first slices is active anywhere
    reconstruction = pair[1].requires_grad_()
    perceptual_loss(dead)(pair[0], reconstruction).backward()
    assert torch.isfinite(reconstruction.grad).all()


def test_channel_weights_are_those_of_lpips_and_not_negative(theirs: lpips.LPIPS) -> None:
    weights = lpips_weights().split(vgg.WIDTHS)
    for ours, layer in zip(weights, theirs.lins, strict=True):
        assert torch.equal(ours, layer.model[1].weight.flatten())
        assert (ours >= 0).all()


def test_layers_and_url_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        whole = torchvision.models.vgg16(weights=None)
        ours = Vgg16(torch.ones(sum(vgg.WIDTHS)))
    expected = {name: tensor.shape for name, tensor in whole.features.state_dict().items()}
    assert {name: t.shape for name, t in ours.features.state_dict().items()} == expected
    assert torchvision.models.VGG16_Weights.IMAGENET1K_V1.url == VGG16_WEIGHTS.url


@pytest.fixture
def published(ours: Vgg16, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in torchvision's format, with the random weights."""
    state = {f"features.{name}": tensor for name, tensor in ours.features.state_dict().items()}
    torch.save({**state, "classifier.0.bias": torch.zeros(4096)}, tmp_path / "vgg16.pth")
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(vgg, "VGG16_WEIGHTS", replace(VGG16_WEIGHTS, sha256=digest[:8]))
    return tmp_path / "vgg16.pth"


def test_weights_are_loaded_from_a_path(ours: Vgg16, published: Path, pair) -> None:
    loaded = load_vgg16(published, CPU)
    for a, b in zip(loaded.slices(pair[0]), ours.slices(pair[0]), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(loaded.all_weights, lpips_weights())
    assert not any(p.requires_grad for p in loaded.parameters())


def test_weights_are_loaded_from_the_cache(ours: Vgg16, published: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDM2_CACHE", str(published.parent / "cache"))
    (published.parent / "cache").mkdir()
    published.rename(published.parent / "cache" / VGG16_WEIGHTS.file)
    loaded = load_vgg16(None, CPU)
    assert torch.equal(loaded.features[0].weight, ours.features[0].weight)


def test_a_file_with_another_checksum_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(UserError, match=r"other\.pth: .*397923af"):
        load_vgg16(tmp_path / "other.pth", CPU)
