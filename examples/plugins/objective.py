"""An objective: EDM's, with noise levels from a Laplace distribution, which has heavier tails."""

import math

import torch

from edm2.diffusion.objective import EdmObjective
from edm2.params.seams import OBJECTIVES


class LaplaceObjective(EdmObjective):
    def ln_sigma(self, normals: torch.Tensor) -> torch.Tensor:
        """The Laplace distribution's quantile of each normal number; same mean and variance."""
        tail = torch.special.ndtr(-normals.abs())  # probability beyond it, on its side
        distance = -(2 * tail).log() / math.sqrt(2)
        return self.p_mean + self.p_std * normals.sign() * distance


OBJECTIVES.register("laplace", LaplaceObjective)
