"""The Haar wavelet transform."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edm2.vae.wavelet import Wavelet

STRIPES = torch.tensor([1.0, -1.0]).repeat(4)


def test_against_numpy() -> None:
    """Per channel and 2×2 block: sum, horizontal, vertical and diagonal differences, halved."""
    x = torch.randn(2, 3, 6, 8)
    a, b, c, d = (x.double().numpy()[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    expected = np.stack(bands, axis=2).reshape(2, 12, 3, 4) / 2  # [N, C, 4, h, w]
    np.testing.assert_allclose(Wavelet(3)(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("pattern", "band", "value"),
    [
        (torch.full((8, 8), 0.7), 0, 1.4),
        (STRIPES.expand(8, 8), 1, 2.0),  # vertical stripes: differences along a row
        (STRIPES[:, None].expand(8, 8), 2, 2.0),
        (torch.outer(STRIPES, STRIPES), 3, 2.0),
    ],
    ids=["flat", "vertical", "horizontal", "checkerboard"],
)
def test_a_pattern_is_in_one_band(pattern: torch.Tensor, band: int, value: float) -> None:
    image = torch.stack([torch.zeros(8, 8), pattern])  # in the second channel
    expected = torch.zeros(8, 4, 4)
    expected[4 + band] = value
    torch.testing.assert_close(Wavelet(2)(image[None])[0], expected)


def test_the_basis_is_orthonormal() -> None:
    """So energy is preserved, and the transposed transform is the inverse."""
    wavelet, x = Wavelet(3), torch.randn(2, 3, 8, 8)
    rows = wavelet.kernel.reshape(3, 4, 4)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(4).expand(3, 4, 4))
    y = wavelet(x)
    assert float(y.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-5)
    back = F.conv_transpose2d(y, wavelet.kernel, stride=2, groups=3)
    torch.testing.assert_close(back, x)


def test_the_transform_keeps_the_dtype_and_has_no_parameters() -> None:
    wavelet = Wavelet(3)
    assert wavelet(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert list(wavelet.parameters()) == []
    assert wavelet.state_dict() == {}
