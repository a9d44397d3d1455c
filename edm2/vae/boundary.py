"""What may enter and leave a VAE: images and latents of the right shape, and images that show something."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from edm2.params.errors import OutOfRangeError
from edm2.runtime.finite import require_finite

LIMIT = 2.0  # images are in [-1, 1]
DIVERGED = "The VAE that made them diverged, or overflows: train it with a lower learning rate."


@dataclass
class Clipped:
    """Numbers of values that were clipped: of latents at `vae.clamp`, of decoded images outside [-2, 2]."""

    latents: int = 0
    images: int = 0


_counted: ContextVar[Clipped | None] = ContextVar("clipped", default=None)


@contextmanager
def counting_clipped() -> Iterator[Clipped]:
    """Counts what is clipped in this thread while the block runs. Elsewhere nothing waits for a GPU."""
    token = _counted.set(clipped := Clipped())
    try:
        yield clipped
    finally:
        _counted.reset(token)


def note_clamped(latents: torch.Tensor, limit: float) -> None:
    """Count the latents that a clamp to ±limit has left at it, if something counts."""
    if (clipped := _counted.get()) is not None:
        clipped.latents += int((latents.abs() >= limit).sum())


def rgb_images(images: torch.Tensor, downscale: int = 1) -> torch.Tensor:
    """uint8 [N, 3, H, W] of images, of which gray ones may have a single channel, which is repeated.

    Args:
        downscale: must divide height and width.

    Raises:
        ValueError: images of another shape or type.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images of type {images.dtype}: expected torch.uint8, from 0 to 255. For images x in "
            "[-1, 1] use (127.5 * x + 127.5).round().clamp(0, 255).to(torch.uint8)."
        )
    if len(shape) != 4 or shape[1] not in (1, 3) or any(n % downscale or not n for n in shape[2:]):
        raise ValueError(
            f"images of shape {shape}: expected [N, 3, H, W] in RGB or [N, 1, H, W] in gray, with "
            f"sides that are multiples of {downscale}. Drop alpha channels; crop or resize other sizes."
        )
    return images.expand(-1, 3, -1, -1)


def float_latents(latents: torch.Tensor, channels: int) -> torch.Tensor:
    """Latents in float32, as decoders take them.

    Raises:
        ValueError: not floating point [N, channels, h, w].
    """
    shape = tuple(latents.shape)
    if len(shape) != 4 or shape[1] != channels or not latents.is_floating_point():
        raise ValueError(
            f"latents of shape {shape} and type {latents.dtype}: expected floating point "
            f"[N, {channels}, h, w]"
        )
    return latents.float()


def require_range(images: torch.Tensor, remedy: str = DIVERGED) -> None:
    """Refuse decoded images of which clipping would make something else, and count the values of others;
    on a GPU it waits for them.

    Their error after clipping is bounded, and says nothing: that of random black and white pixels.

    Args:
        images: float [N, 3, H, W], as the decoder gives them: in about [-1, 1].
        remedy: what to do about values that are not finite, as a sentence.

    Raises:
        NotFiniteError: a value is NaN or infinite.
        OutOfRangeError: more than half of the values are outside [-2, 2].
    """
    inside = images.abs() <= LIMIT
    if inside.all():  # as always while all is well
        return
    require_finite(images, "images", remedy)
    far = inside.numel() - int(inside.sum())
    if 2 * far > images.numel():
        raise OutOfRangeError(
            f"decoded images: {far} of {images.numel()} values are outside [-{LIMIT:g}, {LIMIT:g}], and "
            "images are in [-1, 1]. The VAE that made them diverged: train it with a lower learning rate."
        )
    if (clipped := _counted.get()) is not None:
        clipped.images += far
