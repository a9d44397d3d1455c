"""The training loss, weighted by noise level and learned uncertainty."""

import torch
from torch import nn

from edm2.diffusion.denoiser import Denoiser


class DenoisingLoss(nn.Module):
    """The loss of a denoiser, as a module that owns all trained parameters.

    Data parallelism and torch.compile wrap this module.
    """

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
        """Per image: the loss and the weighted error of the objective, means over pixels.

        Args:
            data: clean data float32 [N, C, R, R] of standard deviation 0.5.
            noise: standard normal, float32 [N, C, R, R].
            sigma: noise level, float32 [N], above 0.
            labels: int64 [N], or None.

        Returns:
            Loss and weighted error, both float32 [N].
        """
        noisy = data + sigma[:, None, None, None] * noise
        error = (self.denoiser(noisy, sigma, labels) - data).square().mean(dim=(1, 2, 3))
        return self.denoiser.objective.loss(error, sigma, self.denoiser.uncertainty(sigma))
