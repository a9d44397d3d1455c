"""The low-pass mask."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from edm2.vae.losses import low_pass_loss
from edm2.vae.low_pass import low_pass_mask


def by_scipy(image: np.ndarray) -> np.ndarray:
    """The mask of one image [C, R, R], before small values are set to 0."""
    window = np.ones((5, 5))
    window[[0, 0, 4, 4], [0, 4, 0, 4]] = 0
    window[2, 2] = -20
    detail = np.abs(ndimage.correlate(image.mean(axis=0), window, mode="nearest"))
    blurred = ndimage.gaussian_filter(detail, 2.0, mode="nearest", radius=6)
    return 1 - (blurred - blurred.min()) / (blurred.max() - blurred.min())


def patchwork(side: int, count: int = 6) -> torch.Tensor:
    """Flat images with rectangles of other colors, one of them with noise."""
    rng, images = np.random.default_rng(0), np.zeros((count, 3, side, side))
    for image in images:
        image += rng.uniform(-1, 1, (3, 1, 1))
        for noise in (0, 0, 0.5):
            top, left = rng.integers(0, side - 4, 2)
            part = image[:, top : top + side // 4, left : left + side // 4]
            part[:] = rng.uniform(-1, 1, (3, 1, 1)) + rng.uniform(-noise, noise, part.shape)
    return torch.from_numpy(images).float()


@pytest.mark.parametrize("side", [8, 16, 40])
def test_against_scipy(side: int) -> None:
    images = patchwork(side)
    mask = low_pass_mask(images)
    assert mask.shape == (6, 1, side, side)
    values = np.stack([by_scipy(image)[None] for image in images.double().numpy()])
    expected = np.where(values >= 0.8, values, 0)
    certain = np.abs(values - 0.8) > 1e-4  # rounding does not decide whether they become 0
    assert certain.mean() > 0.99
    np.testing.assert_allclose(mask.numpy()[certain], expected[certain], atol=1e-4)
    assert 0.05 < (expected > 0).mean() < 0.95


def test_the_mask_is_one_in_flat_areas_and_zero_at_edges() -> None:
    """Black beside white: filter and blur reach 2 + 6 pixels on each side of the edge."""
    image = torch.full((1, 3, 48, 48), -1.0)
    image[..., 24:] = 1.0
    mask = low_pass_mask(image)[0, 0]
    assert torch.equal(mask[:, : 24 - 8], torch.ones(48, 16))
    assert torch.equal(mask[:, 24 + 8 :], torch.ones(48, 16))
    assert torch.equal(mask[:, 22:26], torch.zeros(48, 4))


def test_the_mask_is_zero_in_noise() -> None:
    image = torch.zeros(1, 3, 32, 64)
    image[..., 32:] = torch.randn(32, 32)
    mask = low_pass_mask(image)[0, 0]
    assert torch.equal(mask[:, :24], torch.ones(32, 24))
    assert float((mask[:, 36:] == 0).float().mean()) > 0.95


def test_the_mask_of_a_constant_image_is_one_everywhere() -> None:
    """For each gray of 8 bits, and in a batch with images that have detail."""
    gray = (torch.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1).expand(256, 3, 16, 16)
    colored = torch.tensor([0.3, -0.9, 0.11]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)
    flat = torch.cat([gray, colored])
    torch.testing.assert_close(low_pass_mask(flat), torch.ones(257, 1, 16, 16), rtol=0, atol=1e-5)
    noise = torch.randn(1, 3, 16, 16)
    both = low_pass_mask(torch.cat([noise, flat[:1]]))
    torch.testing.assert_close(both[:1], low_pass_mask(noise))
    torch.testing.assert_close(both[1:], torch.ones(1, 1, 16, 16))


def test_the_smallest_difference_of_8_bits_changes_the_mask() -> None:
    """One step in one channel of one pixel; the mask is scaled per image."""
    image = torch.full((1, 3, 32, 32), 0.2)
    image[0, 1, 16, 16] += 1 / 127.5
    mask = low_pass_mask(image)[0, 0]
    assert mask[16, 16] == 0
    assert mask[0, 0] == 1
    torch.testing.assert_close(mask, low_pass_mask(100 * image)[0, 0], rtol=0, atol=1e-2)


def test_values_are_zero_or_from_four_fifths_to_one() -> None:
    mask = low_pass_mask(torch.randn(4, 3, 64, 64).cumsum(-1))
    assert ((mask == 0) | ((mask >= 0.8) & (mask <= 1))).all()


def test_loss_against_scipy() -> None:
    """The mask comes from the image. Errors where it is 0 cost nothing."""
    images, reconstruction = patchwork(16), patchwork(16).flip(0) + 0.1
    x, y = (value.double().numpy() for value in (images, reconstruction))
    masks = np.stack([by_scipy(image)[None] for image in x])
    expected = (np.where(masks >= 0.8, masks, 0) * (x - y) ** 2).mean()
    assert float(low_pass_loss(images, reconstruction)) == pytest.approx(expected, rel=1e-4)
    masked = (low_pass_mask(images) == 0).expand_as(images)
    assert float(low_pass_loss(images, images + 5 * masked)) == 0
