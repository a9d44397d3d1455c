"""Guidance: extrapolation from the output of a second denoiser through that of the main one."""

from collections.abc import Callable

import numpy as np
import torch

# denoise(x [N, C, H, W], sigma [N], labels [N]) → denoised x
ConditionalDenoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# the same arguments → denoised by the main network, denoised by the guide
DenoisePair = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]

NO_CLASS = -1


def guided(
    main: ConditionalDenoise,
    pair: DenoisePair,
    strength: float,
    interval: tuple[float, float] | None = None,
) -> ConditionalDenoise:
    """D_w = w·D_main + (1 − w)·D_guide (Ho & Salimans 2022; Karras et al. 2024, Autoguidance, eq. 3).

    Args:
        main: the main network; evaluated alone where guidance is not active.
        pair: evaluates both networks: `with_guide` or `without_labels`.
        strength: w; 1 is the main network alone.
        interval: noise levels low < σ ≤ high at which guidance is active (Kynkäänniemi et al. 2024);
            None: all. All σ of a batch must be equal.
    """

    def is_active(sigma: torch.Tensor) -> bool:
        if interval is None:
            return True
        low, high = map(np.float32, interval)  # as sigma is; float32(0.3) is above 0.3
        return bool(low < float(sigma[0]) <= high)

    def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if strength == 1 or not is_active(sigma):
            return main(x, sigma, labels)
        main_output, guide_output = pair(x, sigma, labels)
        return strength * main_output + (1 - strength) * guide_output

    return denoise


def with_guide(main: ConditionalDenoise, guide: ConditionalDenoise) -> DenoisePair:
    """Two networks, conditioned on the same class."""
    return lambda x, sigma, labels: (main(x, sigma, labels), guide(x, sigma, labels))


def without_labels(network: ConditionalDenoise) -> DenoisePair:
    """One network with and without the class (classifier-free guidance), evaluated in one batch."""

    def pair(
        x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([labels, torch.full_like(labels, NO_CLASS)])
        conditional, unconditional = network(
            torch.cat([x, x]), torch.cat([sigma, sigma]), both
        ).chunk(2)
        return conditional, unconditional

    return pair
