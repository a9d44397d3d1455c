"""Quality of a codec's reconstructions, and statistics of its latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.data.images import ImageDataset, max_batch_size, to_float
from edm2.data.passes import reduce_batches
from edm2.features.backbone import Backbone
from edm2.runtime.randomness import generator
from edm2.vae.boundary import counting_clipped
from edm2.vae.codec import Codec
from edm2.vae.losses import Loss, perceptual_loss
from edm2.vae.similarity import structural_similarity

BATCH = 256
QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_LATENT_VALUES = 2**22  # that statistics are computed from


class Mergeable(Protocol):
    """Statistics of some images; `merge` adds those of the next images, and returns the result."""

    def merge(self, other: Any) -> Any: ...


class SetDistance(Protocol):
    """A distance between the set of all evaluated images and that of their reconstructions."""

    def statistics(self, reconstructions: torch.Tensor) -> Mergeable:
        """Of uint8 [N, 3, H, W]; those of all batches are merged in order."""
        ...

    def metrics(self, statistics: Any) -> dict[str, float]:
        """The distance by its name, from the statistics of all reconstructions; on the main process."""
        ...


@dataclass
class _Sums:
    """Sums over some images, and some of the latent values, [C, values] of each batch.

    `reconstructions` are the statistics of a `SetDistance`; None without one. `clipped_latents` and
    `clipped_images` are shares of an image's values, see `Clipped`.
    """

    psnr: float
    ssim: float
    perceptual: float
    clipped_latents: float
    clipped_images: float
    latents: list[NDArray[np.float32]]
    reconstructions: Mergeable | None

    def merge(self, other: "_Sums") -> "_Sums":
        """Add the sums over the next images; returns itself."""
        self.psnr += other.psnr
        self.ssim += other.ssim
        self.perceptual += other.perceptual
        self.clipped_latents += other.clipped_latents
        self.clipped_images += other.clipped_images
        self.latents += other.latents
        if self.reconstructions is not None:
            self.reconstructions = self.reconstructions.merge(other.reconstructions)
        return self


def evaluate(
    codec: Codec,
    images: ImageDataset,
    backbone: Backbone,
    device: torch.device,
    limit: int | None = None,
    set_distance: SetDistance | None = None,
) -> dict[str, float]:
    """Means over images of the quality of their reconstructions, decoded from the latents' means.

    Both images and reconstructions are uint8. The ranks share the images; every rank must call this.

    Args:
        limit: largest number of images; of more, a random subset that never changes is used.
            None: all.
        set_distance: compares the same images and their reconstructions as sets; None: left out.

    Returns:
        On the main process the following, on the others nothing:
        evaluated_images: the number of images.
        psnr: peak signal-to-noise ratio in dB; infinite if a reconstruction is exact.
        ssim: structural similarity (Wang et al. 2004), 7×7 windows, mean over channels.
        perceptual_<backbone>: perceptual distance; with VGG16 it is LPIPS.
        clipped/latents, clipped/images: the shares of latents at `vae.clamp`, and of decoded values
            outside [-2, 2]; left out if there are none.
        what `set_distance` returns.
        latent/...: see `latent_statistics`; of the latents' means.

    Raises:
        NotFiniteError: a reconstruction is not finite.
    """
    indices, distance = evaluated_images(len(images), limit), perceptual_loss(backbone)

    def compute(_: range, pixels: torch.Tensor, labels: torch.Tensor) -> _Sums:
        return _compare(codec, distance, set_distance, pixels.to(device), len(indices))

    batch = min(BATCH, max_batch_size(images.resolution))
    sums = reduce_batches(images, indices, batch, compute, _Sums.merge, "held-out metrics")
    if sums is None:
        return {}
    quality = _means(sums, len(indices), backbone.name)
    if set_distance is not None:
        quality |= set_distance.metrics(sums.reconstructions)
    return quality | latent_statistics(np.concatenate(sums.latents, axis=1))


def _means(sums: _Sums, count: int, backbone: str) -> dict[str, float]:
    clipped = {"latents": sums.clipped_latents / count, "images": sums.clipped_images / count}
    return {
        "evaluated_images": count,
        "psnr": sums.psnr / count,
        "ssim": sums.ssim / count,
        f"perceptual_{backbone}": sums.perceptual / count,
        **{f"clipped/{name}": share for name, share in clipped.items() if share},
    }


@torch.no_grad()
def _compare(
    codec: Codec,
    distance: Loss,
    set_distance: SetDistance | None,
    pixels: torch.Tensor,
    total: int,
) -> _Sums:
    """Sums over a batch of `total` images, uint8 [N, 3, H, W], and their reconstructions."""
    with counting_clipped() as clipped:
        mean = codec.encode(pixels)[0]
        decoded = codec.decode(mean)
    psnr, ssim, perceptual = quality_sums(pixels, decoded, distance)
    stride = _stride(total * mean[0].numel())
    return _Sums(
        psnr,
        ssim,
        perceptual,
        clipped_latents=clipped.latents / mean[0].numel(),
        clipped_images=clipped.images / decoded[0].numel(),
        latents=[mean.permute(1, 0, 2, 3).flatten(1)[:, ::stride].float().cpu().numpy()],
        reconstructions=None if set_distance is None else set_distance.statistics(decoded),
    )


def quality_sums(
    pixels: torch.Tensor, decoded: torch.Tensor, distance: Loss
) -> tuple[float, float, float]:
    """Sums of PSNR, SSIM and perceptual distance over images and what was decoded, uint8 [N, 3, H, W]."""
    x, y = to_float(pixels), to_float(decoded)
    error = (x - y).square().mean(dim=(1, 2, 3))
    psnr = float((10 * torch.log10(4 / error)).double().sum())  # [-1, 1]: peak to peak 2
    ssim = float(structural_similarity(pixels, decoded).sum())
    return psnr, ssim, float(distance(x, y)) * len(x)


def evaluated_images(total: int, limit: int | None) -> Sequence[int]:
    """The indices of at most `limit` of `total` images, ascending."""
    if limit is None or limit >= total:
        return range(total)
    subset: list[int] = generator(0, "vae/evaluate").permutation(total)[:limit].tolist()
    return sorted(subset)


def latent_statistics(latents: NDArray[np.floating]) -> dict[str, float]:
    """Statistics of latents [C, values].

    Returns:
        latent/std, latent/mean_abs, latent/skewness, latent/kurtosis (3 for a Gaussian),
        latent/quantile_<q>, and latent/mean_<c>, latent/std_<c> of each channel c.
    """
    values = latents.astype(np.float64).ravel()
    standardized = (values - values.mean()) / max(values.std(), 1e-12)
    statistics = {
        "std": values.std(),
        "mean_abs": np.abs(values).mean(),
        "skewness": (standardized**3).mean(),
        "kurtosis": (standardized**4).mean(),
        **{f"quantile_{q:g}": np.quantile(values, q) for q in QUANTILES},
        **{f"mean_{c}": row.mean() for c, row in enumerate(latents)},
        **{f"std_{c}": row.std() for c, row in enumerate(latents)},
    }
    return {f"latent/{name}": float(value) for name, value in statistics.items()}


def _stride(values: int) -> int:
    """Step between the latent values that statistics use; odd, so that no column is left out."""
    return -(-values // MAX_LATENT_VALUES) | 1
