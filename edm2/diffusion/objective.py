"""What a denoiser learns: preconditioning, noise distribution, and loss."""

from dataclasses import dataclass
from typing import Protocol

import torch

from edm2.data.normalization import SIGMA_DATA
from edm2.params.configs import TrainingConfig


@dataclass(frozen=True)
class Preconditioning:
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise): the coefficients of each σ, float32 [N]."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


class Objective(Protocol):
    """A member of `edm2.params.seams.OBJECTIVES`, made from a `TrainingConfig`."""

    def precondition(self, sigma: torch.Tensor) -> Preconditioning:
        """The coefficients at noise levels float32 [N]."""
        ...

    def ln_sigma(self, normals: torch.Tensor) -> torch.Tensor:
        """ln σ of training, as a monotonic function of standard normal numbers; any shape."""
        ...

    def loss(
        self, error: torch.Tensor, sigma: torch.Tensor, uncertainty: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Per image the loss and the weighted error, float32 [N].

        Args:
            error: mean squared error ‖D − y‖² of each image, [N].
            uncertainty: u(σ), [N].
        """
        ...


class EdmObjective:
    """EDM's preconditioning and weighting (Karras et al. 2022, Table 1), with EDM2's uncertainty."""

    def __init__(self, config: TrainingConfig) -> None:
        self.p_mean, self.p_std = config.p_mean, config.p_std

    def precondition(self, sigma: torch.Tensor) -> Preconditioning:
        """c_skip = σ_d²/(σ²+σ_d²), c_out = σσ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), c_noise = ln(σ)/4."""
        total = sigma.square() + SIGMA_DATA**2
        return Preconditioning(
            c_skip=SIGMA_DATA**2 / total,
            c_out=sigma * SIGMA_DATA / total.sqrt(),
            c_in=total.rsqrt(),
            c_noise=sigma.float().log() / 4,
        )

    def ln_sigma(self, normals: torch.Tensor) -> torch.Tensor:
        """ln σ ~ N(P_mean, P_std²)."""
        return self.p_mean + self.p_std * normals

    def loss(
        self, error: torch.Tensor, sigma: torch.Tensor, uncertainty: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """λ/e^u·‖D−y‖² + u (EDM2 eq. 14), and λ‖D−y‖²."""
        weighted = loss_weight(sigma) * error
        return weighted / uncertainty.exp() + uncertainty, weighted


def loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """λ(σ) = (σ² + σ_d²) / (σσ_d)², which gives each noise level unit weight at the start."""
    return (sigma.square() + SIGMA_DATA**2) / (sigma * SIGMA_DATA).square()
