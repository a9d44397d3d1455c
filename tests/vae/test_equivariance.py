"""Views of latents and of images."""

from typing import Any

import pytest
import torch
from tiny_autoencoder import BATCH, EVERYTHING, TINY, make_batch, make_task, vae_params
from torch import nn

from edm2.params.vae import Equivariance
from edm2.vae.equivariance import View, draw_view

FLIPS = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
GRID = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
FLIPPED = torch.tensor([[[1.0, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]])


def drawn(
    flip: float,
    crop: float,
    nimg: int = 8,
    batch: int = 8,
    part: slice | None = None,
    side: int = 8,
    channels: int = 1,
    seed: int = 0,
) -> View:
    equivariance = Equivariance(flip=flip, flip_channels=channels, crop=crop)
    return draw_view(equivariance, seed, nimg, batch, part or slice(0, batch), side)


def enlarged(z: torch.Tensor, by: int) -> torch.Tensor:
    """A decoder of the first three channels that follows any view."""
    return z[:, :3].repeat_interleave(by, -1).repeat_interleave(by, -2)


def test_flips_by_hand() -> None:
    """The first column of `flips` is left and right, the second is up and down."""
    view = View(FLIPS, 0, None)
    images = GRID.expand(4, 3, 2, 2)
    expected = FLIPPED[:, None].expand(4, 3, 2, 2)
    assert torch.equal(view.of_images(images, 1), expected)
    assert torch.equal(view.of_latents(images), expected)


def test_reserved_channels_change_sign_with_their_axis() -> None:
    """Of six, two for each axis; the others are only flipped."""
    found = View(FLIPS, 2, None).of_latents(GRID.expand(4, 6, 2, 2))
    for k, (horizontal, vertical) in enumerate(FLIPS.tolist()):
        x, y = (-1 if flipped else 1 for flipped in (horizontal, vertical))
        expected = torch.stack([sign * FLIPPED[k] for sign in (1, 1, x, x, y, y)])
        assert torch.equal(found[k], expected)


def test_crops_by_hand() -> None:
    """Top 1, left 2, side 3 of the latent; twice that of an image with 2×2 pixels for each."""
    z = torch.arange(49.0).reshape(1, 1, 7, 7)
    view = View(torch.zeros(1, 2, dtype=torch.bool), 0, (1, 2, 3))
    assert torch.equal(view.of_latents(z), z[:, :, 1:4, 2:5])
    images = torch.arange(196.0).reshape(1, 1, 14, 14)
    assert torch.equal(view.of_images(images, 2), images[:, :, 2:8, 4:10])


def test_flips_come_before_the_crop() -> None:
    z = torch.randn(4, 3, 6, 6)
    found = View(FLIPS, 0, (0, 1, 3)).of_latents(z)
    assert torch.equal(found[1], z[1].flip(-1)[:, 0:3, 1:4])
    assert torch.equal(found[3], z[3].flip(-1, -2)[:, 0:3, 1:4])


@pytest.mark.parametrize("downscale", [1, 2, 4])
@pytest.mark.parametrize("side", [4, 5, 8])
def test_latents_and_images_agree(side: int, downscale: int) -> None:
    """For any decoder that treats each pixel of the latent alike: identity, or enlarging."""
    for nimg in range(8, 200, 8):
        view, z = drawn(0.5, 0.7, nimg, side=side), torch.randn(8, 5, side, side)
        expected = enlarged(view.of_latents(z), downscale)
        assert torch.equal(view.of_images(enlarged(z, downscale), downscale), expected)


def test_crops_are_half_as_wide_and_everywhere() -> None:
    for side, small in ((8, 4), (5, 3), (2, 1), (1, 1)):
        seen = {drawn(0.0, 1.0, nimg, side=side).crop for nimg in range(0, 3200, 8)}
        places = range(side - small + 1)
        assert seen == {(top, left, small) for top in places for left in places}


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_views_are_as_frequent_as_asked(probability: float) -> None:
    """Each axis of each image for itself; one crop for a batch. Four standard deviations."""
    views = [drawn(probability, probability, nimg) for nimg in range(0, 8 * 400, 8)]
    flips = torch.stack([view.flips for view in views]).double()  # [400, 8, 2]
    spread = (probability * (1 - probability)) ** 0.5
    for axis in (0, 1):
        assert abs(float(flips[..., axis].mean()) - probability) <= 4 * spread / 3200**0.5
    both = float(flips.prod(dim=-1).mean())
    assert abs(both - probability**2) <= 4 * 0.5 / 3200**0.5
    crops = sum(view.crop is not None for view in views) / 400
    assert abs(crops - probability) <= 4 * spread / 400**0.5


def test_probability_zero_is_the_identity() -> None:
    z, images = torch.randn(8, 4, 8, 8), torch.randn(8, 3, 32, 32)
    for nimg in range(8, 100, 8):
        view = drawn(0.0, 0.0, nimg)
        assert torch.equal(view.of_latents(z), z)
        assert torch.equal(view.of_images(images, 4), images)


def test_a_view_is_the_same_for_any_ranks_and_microbatches() -> None:
    for nimg in range(8, 80, 8):
        whole = drawn(0.5, 0.5, nimg)
        parts = [drawn(0.5, 0.5, nimg, part=slice(k, k + 2)) for k in range(0, 8, 2)]
        assert torch.equal(torch.cat([p.flips for p in parts]), whole.flips)
        assert {p.crop for p in parts} == {whole.crop}


def test_views_are_of_time_and_seed() -> None:
    views = [drawn(0.5, 0.5, nimg, seed=seed) for nimg in (8, 16) for seed in (0, 1)]
    assert len({tuple(view.flips.flatten().tolist()) for view in views}) == 4
    assert torch.equal(drawn(0.5, 0.5, 8).flips, views[0].flips)


def test_they_keep_the_type_of_latents() -> None:
    z = torch.randn(4, 4, 2, 2, dtype=torch.bfloat16)
    assert View(FLIPS, 1, (0, 0, 1)).of_latents(z).dtype == torch.bfloat16


class Towards(nn.Module):
    """Adds, to the first three channels, the fourth times a ramp from left to right, and the last
    times one from top to bottom: what those channels mean turns round with the picture.
    """

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        right = torch.linspace(-1, 1, z.shape[-1])
        down = torch.linspace(-1, 1, z.shape[-2])[:, None]
        colors, reserved = z[:, :3], z[:, 3:]
        ramp = right * reserved[:, :1] + down * reserved[:, 1:]
        return torch.cat([colors + self.by * ramp, reserved], dim=1)


def by_hand(**changes: Any) -> Any:
    """A training whose autoencoder has no error: what the encoder takes off, the decoder adds."""
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
    task.network.encoder = nn.Sequential(first, Towards(-1.0))
    task.network.decoder = nn.Sequential(Towards(1.0), last)
    return task, params


def losses(**changes: Any) -> list[float]:
    task, params = by_hand(**changes)
    task.optimizer = torch.optim.SGD(task.network.parameters(), lr=0.0)
    task._set_learning_rates = lambda nimg: None
    rows = [task.step(make_batch(params, step), BATCH * (step + 1)) for step in range(8)]
    return [float(row["train/mse"]) for row in rows]


def test_an_equivariant_autoencoder_has_no_loss() -> None:
    """Its reserved channels tell left from right and up from down."""
    assert max(losses(equivariance__flip=0.5, equivariance__flip_channels=1)) < 1e-10


def test_without_reserved_channels_it_cannot_be() -> None:
    assert max(losses(equivariance__flip=0.5, equivariance__flip_channels=0)) > 1e-3


def test_crops_ask_for_what_a_pixel_of_the_latent_alone_tells() -> None:
    assert max(losses(equivariance__crop=1.0)) > 1e-3  # the ramp is of the whole
    assert max(losses(equivariance__crop=0.0)) < 1e-10


def test_a_training_sees_flips_and_crops_in_its_times() -> None:
    """As the tests of microbatches and ranks take it for granted."""
    task = make_task(vae_params(EVERYTHING))
    views = [task._view(slice(0, BATCH), nimg, 8) for nimg in (8, 16, 24)]
    assert {view.crop is None for view in views[:2]} == {True, False}
    assert all(view.flips.any(dim=0).all() for view in views)
    assert not any(view.flips.all(dim=0).any() for view in views)
