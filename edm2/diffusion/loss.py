"""The training loss, weighted by noise level and learned uncertainty."""

import torch
from torch import nn

from edm2.data.normalization import SIGMA_DATA
from edm2.diffusion.denoiser import Denoiser


class DenoisingLoss(nn.Module):
    """Errors of a denoiser, as one module, so that data parallelism sees all that is trained."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        data: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        labels: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Per image: the loss λ/e^u·‖D−y‖² + u (EDM2 eq. 14), and λ‖D−y‖², means over pixels.

        Args:
            data: clean data float32 [N, C, R, R] of standard deviation 0.5.
            noise: standard normal, like data.
            sigma: float32 [N].
            labels: int64 [N], or None.

        Returns:
            loss and weighted error, both float32 [N].
        """
        noisy = data + sigma[:, None, None, None] * noise
        error = (self.denoiser(noisy, sigma, labels) - data).square().mean(dim=(1, 2, 3))
        weighted = loss_weight(sigma) * error
        u = self.denoiser.uncertainty(sigma)
        return weighted / u.exp() + u, weighted


def loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """λ(σ) = (σ² + σ_d²) / (σσ_d)², which gives each noise level unit weight at first."""
    return (sigma.square() + SIGMA_DATA**2) / (sigma * SIGMA_DATA).square()
