"""Layers of the networks: their formulas in NumPy, and that they preserve unit magnitude."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch.nn import functional as F

from edm2.diffusion.layers import (
    FourierEmbedding,
    GroupNorm,
    Layer,
    PositionalEmbedding,
    downsample,
    force_norms,
    mp_cat,
    mp_silu,
    mp_sum,
    noise_embedding,
    normalize,
    normalized_once,
    upsample,
)
from edm2.params.configs import CONFIGS

FORWARD = ["D", "E", "F", "G"]  # configs that normalize weights


def magnitude(x):
    return float(x.double().square().mean().sqrt())


def silu(x):
    return x / (1 + np.exp(-x))


def normal_density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def test_mp_silu_divides_by_the_magnitude_of_silu_of_normals():
    power, _ = integrate.quad(lambda x: silu(x) ** 2 * normal_density(x), -12, 12)
    x = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(
        mp_silu(torch.from_numpy(x)).numpy(), silu(x) / math.sqrt(power), rtol=1e-3
    )


@pytest.mark.parametrize("t", [0.3, 0.5, 0.8])
def test_mp_sum(t):
    """The formula, and unit magnitude for independent inputs of unit magnitude."""
    a, b = torch.randn(2, 1_000_000, dtype=torch.float64)
    result = mp_sum(a, b, t)
    expected = ((1 - t) * a.numpy() + t * b.numpy()) / np.sqrt((1 - t) ** 2 + t**2)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert magnitude(result) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_mp_cat(t):
    """Unit magnitude for unequal widths; the powers of the parts have the ratio (1−t)² : t²."""
    a, b = torch.randn(50, 32, 16, 16), torch.randn(50, 96, 16, 16)
    result = mp_cat(a, b, t)
    assert result.shape == (50, 128, 16, 16)
    assert magnitude(result) == pytest.approx(1, abs=5e-3)
    power_a, power_b = (float(part.square().sum()) for part in (result[:, :32], result[:, 32:]))
    assert power_a / power_b == pytest.approx(((1 - t) / t) ** 2, rel=2e-2)
    ratio = result[:, :32] / a  # each part is its input times one factor
    expected = math.sqrt(128 / ((1 - t) ** 2 + t**2)) * (1 - t) / math.sqrt(32)
    torch.testing.assert_close(ratio, torch.full_like(ratio, expected))


def test_mp_fourier_is_a_random_cosine_of_unit_magnitude():
    features = FourierEmbedding(200_000, math.sqrt(2))
    f, phi = features.freqs.double().numpy() / math.tau, features.phases.double().numpy() / math.tau
    a = torch.tensor([-1.3, 0.0, 0.7])
    expected = math.sqrt(2) * np.cos(math.tau * (a.double().numpy()[:, None] * f + phi))
    np.testing.assert_allclose(features(a).numpy(), expected, atol=1e-5)
    for row in features(a):
        assert magnitude(row) == pytest.approx(1, abs=1e-2)
    assert f.mean() == pytest.approx(0, abs=1e-2)
    assert f.std() == pytest.approx(1, abs=1e-2)
    np.testing.assert_allclose(np.quantile(phi, [0, 0.25, 0.5, 1]), [0, 0.25, 0.5, 1], atol=1e-2)
    assert not list(features.parameters())
    assert set(features.state_dict()) == {"freqs", "phases"}


def test_noise_embedding_of_each_config():
    """Positional in A and B (no scale), Fourier features from C on, of unit magnitude in G."""
    embeddings = {c: noise_embedding(CONFIGS[c], 8) for c in CONFIGS}
    assert {c: getattr(m, "scale", None) for c, m in embeddings.items()} == {
        "A": None,
        "B": None,
        "C": 1,
        "D": 1,
        "E": 1,
        "F": 1,
        "G": math.sqrt(2),
    }


def test_positional_embedding_is_cosines_then_sines():
    a, channels = np.array([-0.7, 0.0, 1.9]), 10
    expected = np.zeros((3, channels))
    for n in range(3):
        for i in range(5):
            angle = a[n] * 10000 ** (-i / 5)
            expected[n, i], expected[n, 5 + i] = math.cos(angle), math.sin(angle)
    features = PositionalEmbedding(channels)(torch.from_numpy(a).float()).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize("dims", [(1,), (1, 2, 3), (2,)])
def test_normalize_gives_unit_magnitude(dims):
    x = 5 * torch.randn(3, 4, 5, 6)
    array = x.double().numpy()
    expected = array / (1e-4 + np.sqrt((array**2).mean(axis=dims, keepdims=True)))
    np.testing.assert_allclose(normalize(x, dims).numpy(), expected, rtol=1e-5)


def test_normalize_is_finite_for_tiny_values_and_zeros():
    """A magnitude of ε becomes ½, zero stays zero, and large values do not overflow 16 bits."""
    assert magnitude(normalize(torch.full((2, 8), 1e-4), (1,))) == pytest.approx(0.5)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert normalize(torch.zeros(2, 8, dtype=dtype), (1,)).eq(0).all()
        large = normalize(torch.full((2, 4096), 200.0, dtype=dtype), (1,))
        assert magnitude(large) == pytest.approx(1, abs=1e-2)


def test_resampling_with_a_box_filter():
    constant = torch.full((2, 3, 8, 8), -1.7)
    assert downsample(constant).eq(-1.7).all()
    assert upsample(constant).eq(-1.7).all()
    x = torch.randn(2, 3, 8, 6)
    squares = x.numpy().reshape(2, 3, 4, 2, 3, 2)
    np.testing.assert_allclose(downsample(x).numpy(), squares.mean(axis=(3, 5)), rtol=1e-5)
    np.testing.assert_array_equal(upsample(x).numpy(), x.numpy().repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize(("channels", "groups"), [(192, 32), (128, 32), (48, 12), (16, 4), (4, 1)])
def test_group_norm_without_mean_subtraction(channels, groups):
    """x / √(mean of squares over the group + 1e-4), without parameters."""
    norm = GroupNorm(CONFIGS["C"], channels)
    x = 3 * torch.randn(2, channels, 3, 5) + 1
    grouped = x.double().numpy().reshape(2, groups, -1)
    expected = grouped / np.sqrt((grouped**2).mean(axis=2, keepdims=True) + 1e-4)
    np.testing.assert_allclose(norm(x).numpy().reshape(2, groups, -1), expected, rtol=1e-5)
    assert norm.groups == groups
    assert not list(norm.parameters())
    small = torch.full((1, channels, 2, 2), 0.01)  # mean of squares 1e-4: 1/√2
    assert magnitude(norm(small)) == pytest.approx(math.sqrt(0.5), rel=1e-5)


def test_group_norm_of_the_baseline():
    norm = GroupNorm(CONFIGS["A"], 16)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = 3 * torch.randn(2, 16, 3, 5) + 1
    grouped = x.double().numpy().reshape(2, 4, -1)
    centered = grouped - grouped.mean(axis=2, keepdims=True)
    unit = centered / np.sqrt(grouped.var(axis=2, keepdims=True) + 1e-5)
    w, b = (p.detach().double().numpy()[:, None] for p in (norm.weight, norm.bias))
    expected = unit.reshape(2, 16, -1) * w + b
    np.testing.assert_allclose(norm(x).detach().numpy().reshape(2, 16, -1), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [0, 1, 3])
@pytest.mark.parametrize("config", FORWARD)
def test_normalized_layer_preserves_unit_magnitude(config, kernel):
    """For weights of any scale, in each output unit, away from the padded border."""
    layer = Layer(CONFIGS[config], 64, 64, kernel)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.1, 9, 64).reshape(-1, *[1] * (layer.weight.ndim - 1)))
        y = layer(torch.randn(20_000, 64) if kernel == 0 else torch.randn(100, 64, 16, 16))
    inner = y.T if kernel == 0 else y[:, :, 1:-1, 1:-1].transpose(0, 1)
    units = inner.flatten(1).double().square().mean(1).sqrt()
    torch.testing.assert_close(units, torch.ones(64).double(), atol=4e-2, rtol=0)


def test_formula_of_layers():
    """gain · w/(ε + ‖w‖/√n)/√n · x with normalized weights, w · x + b without, in NumPy."""
    layer, x = Layer(CONFIGS["G"], 6, 5, 0), torch.randn(7, 6)
    w = layer.weight.detach().double().numpy()
    unit = w / (1e-4 + np.sqrt((w**2).mean(1, keepdims=True))) / math.sqrt(6)
    y = layer(x, gain=torch.tensor(-2.5)).detach().numpy()
    np.testing.assert_allclose(y, -2.5 * x.numpy() @ unit.T, atol=1e-5)
    plain = Layer(CONFIGS["A"], 6, 5, 0)
    expected = x.numpy() @ plain.weight.detach().numpy().T + plain.bias.detach().numpy()
    np.testing.assert_allclose(plain(x).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("config", ["A", "F", "G"])
def test_a_layer_after_silu_has_the_constant_of_the_config_s_silu(config):
    """Biases, of A, are not divided by it."""
    layer = Layer(CONFIGS[config], 6, 5, 3, after_silu=True)
    plain = Layer(CONFIGS[config], 6, 5, 3)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 4, 4)
    expected = plain(mp_silu(x) if config == "G" else F.silu(x))
    torch.testing.assert_close(layer(F.silu(x)), expected)
    with normalized_once(layer):
        torch.testing.assert_close(layer(F.silu(x)), expected)


@pytest.mark.parametrize("kernel", [0, 3])
@pytest.mark.parametrize("config", FORWARD)
def test_gradient_is_orthogonal_to_a_normalized_weight(config, kernel):
    layer = Layer(CONFIGS[config], 8, 12, kernel)
    x = torch.randn(5, 8) if kernel == 0 else torch.randn(2, 8, 6, 6)
    (layer(x) * torch.randn(12, *[1] * (x.ndim - 2))).square().sum().backward()
    w, g = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
    cosine = (w * g).sum(1) / (w.norm(dim=1) * g.norm(dim=1))
    assert g.norm() > 0
    torch.testing.assert_close(cosine, torch.zeros(12), atol=1e-3, rtol=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_forced_norm_is_the_root_of_fan_in(config):
    """From E on, ‖w‖ = √n per output unit; other configs do not change the weights."""
    layer = Layer(CONFIGS[config], 8, 12, 3)
    with torch.no_grad():
        layer.weight.mul_(7)
    original = layer.weight.detach().clone()
    force_norms(layer)
    if config in "EFG":
        norms = layer.weight.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.full((12,), math.sqrt(8 * 9)), rtol=1e-3, atol=0)
        cosine = torch.cosine_similarity(layer.weight.flatten(1), original.flatten(1))
        torch.testing.assert_close(cosine, torch.ones(12))
    else:
        assert torch.equal(layer.weight, original)


def test_only_a_and_b_have_biases_but_not_in_the_class_embedding():
    assert [c for c in CONFIGS if Layer(CONFIGS[c], 4, 4, 3).bias is not None] == ["A", "B"]
    assert Layer(CONFIGS["A"], 4, 4, 0, embeds_labels=True).bias is None


@pytest.mark.parametrize("config", "ABC")
def test_uniform_initialization(config):
    """Weights and biases are uniform within ±1/√fan-in."""
    layer = Layer(CONFIGS[config], 100, 200, 0)
    for parameter in layer.parameters():
        values = parameter.detach().flatten().numpy()
        quantiles = np.quantile(values, [0, 0.5, 1])
        np.testing.assert_allclose(quantiles, [-0.1, 0, 0.1], atol=2e-2)
        assert np.abs(values).max() <= 0.1


def test_initialization_of_branch_ends_and_class_embedding():
    """Zeros and N(0, 1) in A and B; from C on the same as in all other layers."""
    for name, config in CONFIGS.items():
        end = Layer(config, 8, 8, 3, ends_branch=True)
        label = Layer(config, 100, 100, 0, embeds_labels=True)
        zero = all(p.eq(0).all() for p in end.parameters())
        assert zero == (name in "AB"), name
        spread = 1.0 if name != "C" else 0.1 / math.sqrt(3)  # of U(−0.1, 0.1)
        assert float(label.weight.detach().std()) == pytest.approx(spread, rel=0.05), name
        if name in FORWARD:
            assert float(end.weight.detach().std()) == pytest.approx(1, rel=0.1)
