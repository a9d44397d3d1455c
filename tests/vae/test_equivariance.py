"""Transforms of latents and of images."""

from typing import Any

import pytest
import torch
from tiny_autoencoder import BATCH, FULL_VAE, TINY, make_batch, make_task, vae_params
from torch import nn

from edm2.params.vae import Equivariance
from edm2.vae.equivariance import Transform, random_transform

FLIPS = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
GRID = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
FLIPPED = torch.tensor([[[1.0, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]])


def transform_of(
    flip: float,
    crop: float,
    nimg: int = 8,
    batch: int = 8,
    part: slice | None = None,
    side: int = 8,
    flip_channels: int = 1,
    seed: int = 0,
    scale: float = 0.0,
    min_scale: float = 0.25,
) -> Transform:
    equivariance = Equivariance(
        flip=flip, flip_channels=flip_channels, crop=crop, scale=scale, min_scale=min_scale
    )
    return random_transform(equivariance, seed, nimg, batch, part or slice(0, batch), side)


def upsampled(z: torch.Tensor, factor: int) -> torch.Tensor:
    """A decoder of the first three channels that is equivariant to any transform."""
    return z[:, :3].repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def test_flips_by_hand() -> None:
    """The first column of `flips` flips horizontally, the second vertically."""
    transform = Transform(FLIPS, 0, None, None)
    images = GRID.expand(4, 3, 2, 2)
    expected = FLIPPED[:, None].expand(4, 3, 2, 2)
    assert torch.equal(transform.apply_to_images(images, 1), expected)
    assert torch.equal(transform.apply_to_latents(images), expected)


def test_flip_channels_change_sign_with_their_axis() -> None:
    """Two of six channels per axis; the others are only flipped."""
    z = Transform(FLIPS, 2, None, None).apply_to_latents(GRID.expand(4, 6, 2, 2))
    for k, (horizontal, vertical) in enumerate(FLIPS.tolist()):
        x, y = (-1 if flipped else 1 for flipped in (horizontal, vertical))
        expected = torch.stack([sign * FLIPPED[k] for sign in (1, 1, x, x, y, y)])
        assert torch.equal(z[k], expected)


def test_crops_by_hand() -> None:
    """Top 1, left 2, side 3 in latent pixels; twice that in an image with a downscale of 2."""
    z = torch.arange(49.0).reshape(1, 1, 7, 7)
    transform = Transform(None, 0, (1, 2, 3), None)
    assert torch.equal(transform.apply_to_latents(z), z[:, :, 1:4, 2:5])
    images = torch.arange(196.0).reshape(1, 1, 14, 14)
    assert torch.equal(transform.apply_to_images(images, 2), images[:, :, 2:8, 4:10])


def test_scales_by_hand() -> None:
    """From 4 pixels to 2 by a triangle of two new pixels to each side: (3·a + 3·b + c) / 7 at the edge."""
    z = torch.tensor([7.0, 14.0, 28.0, 0.0]).expand(1, 1, 4, 4)
    transform = Transform(None, 0, None, 2)
    expected = torch.tensor([(3 * 7 + 3 * 14 + 28) / 7, (14 + 3 * 28) / 7]).expand(1, 1, 2, 2)
    torch.testing.assert_close(transform.apply_to_latents(z), expected)
    torch.testing.assert_close(transform.apply_to_images(z, 1), expected)
    assert transform.apply_to_images(torch.ones(1, 3, 16, 16), 4).shape == (1, 3, 8, 8)


def test_downscaled_noise_has_less_variance() -> None:
    """By the sum of squared weights, along each axis: inside, (1, 3, 3, 1) / 8."""
    noise = torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    small = Transform(None, 0, None, 16).apply_to_latents(noise)
    inside = small[..., 1:-1, 1:-1]
    assert float(inside.var()) == pytest.approx((20 / 64) ** 2, rel=0.02)


def test_scales_come_after_the_crop() -> None:
    z = torch.randn(4, 3, 6, 6)
    cropped = Transform(FLIPS, 0, (0, 1, 4), None).apply_to_latents(z)
    both = Transform(FLIPS, 0, (0, 1, 4), 2).apply_to_latents(z)
    alone = Transform(None, 0, None, 2)
    assert torch.equal(both, alone.apply_to_latents(cropped))


def test_scales_are_all_smaller_sizes_from_the_smallest_on() -> None:
    for side, smallest, sides in ((8, 0.25, range(2, 8)), (5, 0.5, range(3, 5)), (4, 0.75, [3])):
        times = range(0, 1600, 8)
        scaled = {
            transform_of(0.0, 0.0, nimg, side=side, scale=1.0, min_scale=smallest).scaled_side
            for nimg in times
        }
        assert scaled == set(sides)
    cropped = [transform_of(0.0, 0.5, nimg, scale=1.0) for nimg in range(0, 1600, 8)]
    assert {t.scaled_side for t in cropped if t.crop} == {1, 2, 3}
    assert {t.scaled_side for t in cropped if not t.crop} == set(range(2, 8))


def test_scales_leave_the_draws_of_flips_and_crops_alone() -> None:
    for nimg in range(8, 200, 8):
        without, scaled = (transform_of(0.5, 0.5, nimg, scale=p) for p in (0.0, 0.5))
        assert torch.equal(without.flips, scaled.flips)
        assert without.crop == scaled.crop


def test_flips_come_before_the_crop() -> None:
    z = torch.randn(4, 3, 6, 6)
    transformed = Transform(FLIPS, 0, (0, 1, 3), None).apply_to_latents(z)
    assert torch.equal(transformed[1], z[1].flip(-1)[:, 0:3, 1:4])
    assert torch.equal(transformed[3], z[3].flip(-1, -2)[:, 0:3, 1:4])


@pytest.mark.parametrize("downscale", [1, 2, 4])
@pytest.mark.parametrize("side", [4, 5, 8])
def test_latents_and_images_agree(side: int, downscale: int) -> None:
    """For a decoder that treats all pixels of the latent alike."""
    for nimg in range(8, 200, 8):
        transform, z = transform_of(0.5, 0.7, nimg, side=side), torch.randn(8, 5, side, side)
        expected = upsampled(transform.apply_to_latents(z), downscale)
        images = upsampled(z, downscale)
        assert torch.equal(transform.apply_to_images(images, downscale), expected)


def flips_of(transform: Transform, images: int) -> torch.Tensor:
    """bool [images, 2], also where no image is flipped."""
    none = torch.zeros(images, 2, dtype=torch.bool)
    return none if transform.flips is None else transform.flips


def test_crops_are_half_as_wide_and_at_all_positions() -> None:
    for side, crop_side in ((8, 4), (5, 3), (2, 1), (1, 1)):
        crops = {transform_of(0.0, 1.0, nimg, side=side).crop for nimg in range(0, 3200, 8)}
        positions = range(side - crop_side + 1)
        assert crops == {(top, left, crop_side) for top in positions for left in positions}


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flips_and_crops_have_the_probability_of_params(probability: float) -> None:
    """Flips per axis and image, crops and scales per batch, within four standard deviations."""
    transforms = [
        transform_of(probability, probability, nimg, scale=probability)
        for nimg in range(0, 8 * 400, 8)
    ]
    flips = torch.stack(
        [flips_of(transform, 8) for transform in transforms]
    ).double()  # [400, 8, 2]
    spread = (probability * (1 - probability)) ** 0.5
    for axis in (0, 1):
        assert abs(float(flips[..., axis].mean()) - probability) <= 4 * spread / 3200**0.5
    both = float(flips.prod(dim=-1).mean())
    assert abs(both - probability**2) <= 4 * 0.5 / 3200**0.5
    crops = sum(transform.crop is not None for transform in transforms) / 400
    assert abs(crops - probability) <= 4 * spread / 400**0.5
    scales = sum(transform.scaled_side is not None for transform in transforms) / 400
    assert abs(scales - probability) <= 4 * spread / 400**0.5


def test_probability_zero_is_the_identity() -> None:
    z, images = torch.randn(8, 4, 8, 8), torch.randn(8, 3, 32, 32)
    for nimg in range(8, 100, 8):
        transform = transform_of(0.0, 0.0, nimg)
        assert torch.equal(transform.apply_to_latents(z), z)
        assert torch.equal(transform.apply_to_images(images, 4), images)


def test_transforms_do_not_depend_on_ranks_and_microbatches() -> None:
    for nimg in range(8, 80, 8):
        whole = transform_of(0.5, 0.5, nimg, scale=0.5)
        parts = [
            transform_of(0.5, 0.5, nimg, part=slice(k, k + 2), scale=0.5) for k in range(0, 8, 2)
        ]
        assert torch.equal(torch.cat([flips_of(p, 2) for p in parts]), whole.flips)
        assert {(p.crop, p.scaled_side) for p in parts} == {(whole.crop, whole.scaled_side)}


def test_transforms_depend_on_time_and_seed() -> None:
    transforms = [transform_of(0.5, 0.5, nimg, seed=seed) for nimg in (8, 16) for seed in (0, 1)]
    assert len({tuple(transform.flips.flatten().tolist()) for transform in transforms}) == 4
    assert torch.equal(transform_of(0.5, 0.5, 8).flips, transforms[0].flips)


@pytest.mark.parametrize("side", [None, 1])
def test_transforms_keep_the_dtype_of_latents(side: int | None) -> None:
    z = torch.randn(4, 4, 2, 2, dtype=torch.bfloat16)
    assert Transform(FLIPS, 1, (0, 0, 2), side).apply_to_latents(z).dtype == torch.bfloat16


class Ramps(nn.Module):
    """Adds to the first three channels the fourth times a ramp from left to right, and the fifth
    times a ramp from top to bottom. A flip reverses the ramp, as negating its channel does.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        right = torch.linspace(-1, 1, z.shape[-1])
        down = torch.linspace(-1, 1, z.shape[-2])[:, None]
        colors, slopes = z[:, :3], z[:, 3:]
        ramp = right * slopes[:, :1] + down * slopes[:, 1:]
        return torch.cat([colors + self.factor * ramp, slopes], dim=1)


def lossless_task(**changes: Any) -> Any:
    """A training of a VAE without error: the encoder subtracts the ramps that the decoder adds."""
    params = vae_params(
        TINY, {"channel_mult": (1,), "latent_channels": 5, "variance": 0.0}, changes
    )
    task = make_task(params)
    first, last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)
    with torch.no_grad():
        for conv in (first, last):
            nn.init.zeros_(conv.bias)
            conv.weight.copy_(torch.eye(5)[: conv.out_channels, : conv.in_channels, None, None])
        first.bias[3:] = torch.tensor([0.3, -0.2])
    task.network.encoder = nn.Sequential(first, Ramps(-1.0))
    task.network.decoder = nn.Sequential(Ramps(1.0), last)
    return task, params


def losses(**changes: Any) -> list[float]:
    task, params = lossless_task(**changes)
    task.optimizer = torch.optim.SGD(task.network.parameters(), lr=0.0)
    task._set_learning_rates = lambda nimg: None
    rows = [task.step(make_batch(params, step), BATCH * (step + 1)) for step in range(8)]
    return [float(row["train/mse"]) for row in rows]


def test_an_equivariant_vae_has_no_loss() -> None:
    """Its flip channels tell left from right and up from down."""
    assert max(losses(equivariance__flip=0.5, equivariance__flip_channels=1)) < 1e-10


def test_the_same_vae_has_a_loss_without_flip_channels() -> None:
    assert max(losses(equivariance__flip=0.5, equivariance__flip_channels=0)) > 1e-3


def test_a_decoder_that_depends_on_the_position_has_a_loss_with_crops() -> None:
    assert max(losses(equivariance__crop=1.0)) > 1e-3  # the ramps span the crop, not the image
    assert max(losses(equivariance__crop=0.0)) < 1e-10


def test_the_target_of_a_scale_is_the_downscaled_image() -> None:
    """The lossless VAE without ramps is equivariant to all sizes."""
    scale = {"equivariance__scale": 1.0, "equivariance__min_scale": 0.25}
    assert max(losses(**scale)) > 1e-4  # the ramps do not fit other sizes
    task, params = lossless_task(**scale)
    task.network.encoder[1].factor = task.network.decoder[0].factor = 0.0
    transforms = [task._transform(slice(0, BATCH), nimg, 16) for nimg in (8, 16)]
    assert all(transform.scaled_side for transform in transforms)
    assert float(task.step(make_batch(params), BATCH)["train/mse"]) < 1e-10


def test_the_first_steps_of_a_training_have_flips_and_crops() -> None:
    """Tests of microbatches and ranks rely on this."""
    task = make_task(vae_params(FULL_VAE))
    transforms = [task._transform(slice(0, BATCH), nimg, 8) for nimg in (8, 16, 24)]
    assert {transform.crop is None for transform in transforms[:2]} == {True, False}
    assert all(transform.flips.any(dim=0).all() for transform in transforms)
    assert not any(transform.flips.all(dim=0).any() for transform in transforms)
