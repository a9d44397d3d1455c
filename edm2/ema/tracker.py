"""Averages of parameters, updated after each training step."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edm2.ema.profile import beta, sigma_rel_to_gamma

Tensors = Mapping[str, torch.Tensor]


class PowerEMA:
    """Power-function averages of several lengths at once (EDM2 eq. 127), held in float32.

    Floating-point parameters are averaged; buffers are copied as they are when asked for.
    """

    def __init__(self, source: nn.Module | Tensors, sigma_rels: Sequence[float]) -> None:
        """
        Args:
            source: what is averaged, a module or a mapping of named tensors; read at each update.
            sigma_rels: EMA lengths, each within (0, 0.2886).
        """
        if isinstance(source, nn.Module):
            self.parameters: Tensors = dict(source.named_parameters())
            self.buffers: Tensors = dict(source.named_buffers())
        else:
            self.parameters, self.buffers = source, {}
        self.gammas = {sigma_rel: sigma_rel_to_gamma(sigma_rel) for sigma_rel in sigma_rels}
        self.averages = {
            sigma_rel: {name: p.detach().float().clone() for name, p in self.parameters.items()}
            for sigma_rel in sigma_rels
        }

    @torch.no_grad()
    def update(self, nimg: int, batch: int) -> None:
        """Take in the current parameters.

        Args:
            nimg: images seen in training, this step's batch included.
            batch: images in this step.
        """
        current = [p.detach().float() for p in self.parameters.values()]
        for sigma_rel, average in self.averages.items():
            weight = 1 - beta(self.gammas[sigma_rel], nimg, batch)
            torch._foreach_lerp_(list(average.values()), current, weight)

    def tensors(self, sigma_rel: float) -> dict[str, torch.Tensor]:
        """The average of one length, float32, with the current buffers."""
        buffers = {name: buffer.detach() for name, buffer in self.buffers.items()}
        return {**self.averages[sigma_rel], **buffers}

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        return {repr(sigma_rel): dict(average) for sigma_rel, average in self.averages.items()}

    def load_state_dict(self, state: Mapping[str, Tensors]) -> None:
        for sigma_rel, average in self.averages.items():
            for name, tensor in average.items():
                tensor.copy_(state[repr(sigma_rel)][name])
