"""Statistics of latents that matter to a diffusion model: spectrum, and moments of channels."""

from dataclasses import dataclass

import pandas as pd
import torch

from edm2.data.normalization import SIGMA_DATA


@dataclass
class ChannelSums:
    """Sums over signals [N, C, L, L], in float64, on the CPU.

    Attributes:
        images: number of signals.
        side: L.
        moments: of x, x², x³, x⁴, over images and pixels, [4, C].
        products: of channel by channel, [C, C].
        power: squared moduli of the unitary Fourier transform, averaged over rings of frequencies, [C, bins].
        noise: variances of the noise on the signal, over images and pixels, [C].
    """

    images: int
    side: int
    moments: torch.Tensor
    products: torch.Tensor
    power: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def empty(cls, channels: int, side: int) -> "ChannelSums":
        shapes = ((4, channels), (channels, channels), (channels, side // 2 + 1), (channels,))
        return cls(0, side, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, signals: torch.Tensor, noise_std: torch.Tensor | None = None) -> None:
        """Add signals [N, C, L, L], and the standard deviation of their noise, of the same shape."""
        x = signals.double()
        values = x.transpose(0, 1).flatten(1)  # [C, N·L·L]
        self.images += len(x)
        self.moments += torch.stack([values.pow(k).sum(1) for k in (1, 2, 3, 4)])
        self.products += values @ values.T
        self.power += radial_power(x).sum(0)
        if noise_std is not None:
            self.noise += noise_std.double().square().sum((0, 2, 3))

    @property
    def count(self) -> int:
        """Values of a channel."""
        return self.images * self.side**2

    @property
    def mean(self) -> torch.Tensor:
        return self.moments[0] / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """Of the signals without their noise, [C, C]."""
        return self.products / self.count - self.mean[:, None] * self.mean

    @property
    def noise_variance(self) -> torch.Tensor:
        return self.noise / self.count


def radial_power(x: torch.Tensor) -> torch.Tensor:
    """Power of signals [N, C, L, L] by frequency, [N, C, L // 2 + 1].

    Squared moduli of the unitary discrete Fourier transform: white noise of variance v has v everywhere. Bin
    k is the mean over frequencies whose distance from 0 rounds to k cycles per image; those in the
    corners, beyond L/2, are in none.
    """
    side = x.shape[-1]
    frequencies = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    rings = torch.hypot(frequencies[:, None], frequencies).round().long().flatten()
    inside = rings <= side // 2
    power = torch.fft.fft2(x, norm="ortho").abs().square().flatten(2)[..., inside]
    sums = power.new_zeros(*power.shape[:2], side // 2 + 1)
    sums.index_add_(2, rings[inside], power)
    return sums / torch.bincount(rings[inside])


def spectrum_table(sums: ChannelSums, signal: str) -> pd.DataFrame:
    """Power by frequency, a mean over channels that are each normalized to mean 0 and variance 1.

    So white noise has 1 at all frequencies. The variance includes the signal's noise, which has the
    same power at all of them.

    Returns:
        rows with signal, frequency in cycles per image, power of the signal with its noise,
        power_without_noise, and sigma: the noise level of the diffusion that has the same power.
    """
    signal_variance = sums.covariance.diagonal()
    variance = (signal_variance + sums.noise_variance)[:, None]
    power = sums.power / sums.images
    power[:, 0] -= sums.side**2 * sums.mean.square()  # of the signal less its mean
    without = (power / variance).mean(0)
    with_noise = ((power + sums.noise_variance[:, None]) / variance).mean(0)
    return pd.DataFrame(
        {
            "signal": signal,
            "frequency": range(len(with_noise)),
            "power": with_noise.tolist(),
            "power_without_noise": without.tolist(),
            "sigma": (SIGMA_DATA * with_noise.clamp(min=0).sqrt()).tolist(),
        }
    )


def channels_table(sums: ChannelSums) -> pd.DataFrame:
    """Statistics of each channel's means, on the codec's own scale.

    Returns:
        rows with channel, mean, std, skewness, kurtosis (3 for a Gaussian), noise_std of the encoder's noise,
        noise_sigma, the same as a noise level of the diffusion, and the correlation with each channel,
        correlation_<c>. What a channel without variance does not have is empty.
    """
    m1, m2, m3, m4 = sums.moments / sums.count
    variance = sums.covariance.diagonal()
    std = variance.sqrt()
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1.square() * m2 - 3 * m1**4
    noise = sums.noise_variance
    columns = {
        "channel": torch.arange(len(m1)),
        "mean": m1,
        "std": std,
        "skewness": third / std**3,
        "kurtosis": fourth / variance.square(),
        "noise_std": noise.sqrt(),
        "noise_sigma": SIGMA_DATA * (noise / (variance + noise)).sqrt(),
    }
    correlations = sums.covariance / (std[:, None] * std)
    columns |= {f"correlation_{c}": column for c, column in enumerate(correlations.T)}
    return pd.DataFrame({name: values.tolist() for name, values in columns.items()})
