"""Training of the denoiser."""

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from edm2.diffusion import magnitudes
from edm2.diffusion.batches import Batch
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.layers import normalized_once
from edm2.diffusion.loss import DenoisingLoss
from edm2.diffusion.magnitudes import Magnitudes
from edm2.diffusion.objective import Objective
from edm2.diffusion.schedule import learning_rate
from edm2.params.diffusion import Diffusion
from edm2.runtime.distributed import ranks
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.metrics import Metrics, Scalar
from edm2.runtime.moments import allocate_moments
from edm2.runtime.parallel import (
    average_scalar_gradients,
    data_parallel,
    is_sharded,
    synchronized,
)
from edm2.runtime.randomness import torch_seed

BETA1 = 0.9
EDGES = (-2.0, -1.0, 0.0, 1.0, 2.0)  # of bins of ln σ, in standard deviations from its mean


class Average(Protocol):
    """A moving average of the network's parameters."""

    def update(self, nimg: int, batch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def longest(self) -> Mapping[str, torch.Tensor]: ...  # by name of the parameter


class DenoiserTask:
    """Training steps: forced norms, loss, gradients, Adam, averages; sometimes magnitudes."""

    def __init__(
        self,
        denoiser: Denoiser,
        average: Average,
        params: Diffusion,
        seed: int,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        """
        Args:
            denoiser: see `prepare_training`.
            average: of the raw network's parameters, updated after each step.
            params: of this config; options that the denoiser's config has are taken from there.
            seed: of dropout.
            compiled: whether to compile the loss with torch.compile.
        """
        self.denoiser, self.average, self.device, self.seed = denoiser, average, device, seed
        self.params, self.config, self.objective = params, denoiser.config, denoiser.objective
        self.sharded = is_sharded(denoiser)
        self.loss = data_parallel(DenoisingLoss(denoiser), device, compiled)
        self.optimizer = torch.optim.Adam(
            [
                {"params": [p for p in denoiser.parameters() if p.ndim]},
                {"params": [p for p in denoiser.parameters() if not p.ndim]},  # are never sharded
            ],
            lr=self.config.lr_ref,
            betas=(BETA1, self.config.adam_beta2),
            fused=True,
        )
        allocate_moments(self.optimizer)

    def step(self, batch: Batch, nimg: int) -> Metrics:
        """Train on one batch.

        Args:
            batch: of this rank.
            nimg: images seen, this batch included.
        """
        self.denoiser.train()
        self.denoiser.force_norms()
        torch.manual_seed(torch_seed(self.seed, f"diffusion/dropout/{ranks().rank}", nimg))
        losses, weighted, ln_sigma = self._gradients(batch)
        nonfinite = zero_nonfinite(self.denoiser.parameters())
        rate = self._set_learning_rate(nimg - self.config.batch)
        measured = self._optimizer_step(batch, nimg)
        self.average.update(nimg, self.config.batch)
        return {
            "train/loss": losses.mean(),
            "train/weighted_mse": weighted.mean(),
            "train/lr": rate,
            "train/nonfinite_gradients": nonfinite,
            **self._by_noise_level(weighted, ln_sigma),
            **measured,
        }

    def _optimizer_step(self, batch: Batch, nimg: int) -> Magnitudes:
        """Take the optimizer's step; at multiples of magnitudes_nimg, measure magnitudes too.

        Weights and activations are measured before the step; those of the average have the prefix
        "average/".
        """
        if nimg % self.params.magnitudes_nimg:
            self.optimizer.step()
            return {}
        unet, averaged = self.denoiser.unet, {}
        measured = self._weights_and_activations(batch)
        if self.params.magnitudes_of_average:
            with magnitudes.replaced_parameters(unet, self.average.longest()):
                averaged = self._weights_and_activations(batch)
        with magnitudes.updates(unet) as updates:
            self.optimizer.step()
        return measured | updates | {f"average/{key}": value for key, value in averaged.items()}

    def _weights_and_activations(self, batch: Batch) -> Magnitudes:
        unet = self.denoiser.unet
        activations = magnitudes.activations(unet, lambda: self.probe_forward(batch))
        return magnitudes.weights(unet) | activations

    def probe_forward(self, batch: Batch) -> None:
        """One forward pass over the first microbatch, without compilation or dropout."""
        rows = slice(0, self.params.microbatch)
        data, noise, ln_sigma, labels = (tensor[rows].to(self.device) for tensor in batch)
        sigma = ln_sigma.exp()
        self.denoiser.eval()
        with torch.compiler.set_stance("force_eager"):
            self.denoiser(
                data + sigma[:, None, None, None] * noise,
                sigma,
                labels if self.params.conditional else None,
            )

    def _gradients(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Accumulate gradients over microbatches; return per-image loss, weighted error and ln σ."""
        data, noise, ln_sigma, labels = (tensor.to(self.device) for tensor in batch)
        self.optimizer.zero_grad()
        results = []
        starts = range(0, len(data), self.params.microbatch or len(data))
        # a rank never has all weights of a sharded denoiser
        shared = len(starts) > 1 and not self.sharded
        with normalized_once(self.denoiser) if shared else contextlib.nullcontext():
            for start in starts:
                rows = slice(start, start + starts.step)
                with synchronized(self.loss, start == starts[-1]):
                    loss, weighted = self.loss(
                        data[rows],
                        noise[rows],
                        ln_sigma[rows].exp(),
                        labels[rows] if self.params.conditional else None,
                    )
                    pixels = data[0].numel()
                    total = loss.sum() * (self.config.loss_scaling * pixels / len(data))
                    total.backward()
                results.append((loss.detach(), weighted.detach()))
        if self.sharded:
            average_scalar_gradients(self.denoiser)
        losses, errors = (torch.cat(column) for column in zip(*results, strict=True))
        return losses, errors, ln_sigma

    def _set_learning_rate(self, nimg: int) -> float:
        """The rate of a step before which `nimg` images were seen."""
        config = self.config
        rate = learning_rate(
            nimg, config.batch, config.lr_ref, config.lr_decay_batches, config.lr_rampup_nimg
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _by_noise_level(
        self, weighted: torch.Tensor, ln_sigma: torch.Tensor
    ) -> dict[str, tuple[Scalar, Scalar]]:
        """Sum and count of the weighted error in each bin of ln σ; see `bin_names`."""
        edges = torch.tensor(_ln_sigmas(self.objective, EDGES), device=self.device)
        bins = torch.bucketize(ln_sigma, edges)
        count = torch.bincount(bins, minlength=len(EDGES) + 1)
        total = torch.bincount(bins, weighted.double(), minlength=len(EDGES) + 1)
        return {name: (total[k], count[k]) for k, name in enumerate(bin_names(self.objective))}

    def state_dict(self) -> dict[str, Any]:
        return {
            "denoiser": self.denoiser.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # in the parameter's memory layout
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        self.average.load_state_dict(state["average"])


def bin_names(objective: Objective) -> list[str]:
    """Metric names weighted_mse/sigma_<σ>, σ at the middle of each bin.

    For the two open bins, σ is half a bin beyond their edge.
    """
    middles = [EDGES[0] - 0.5, *((a + b) / 2 for a, b in pairwise(EDGES)), EDGES[-1] + 0.5]
    return [f"weighted_mse/sigma_{np.exp(x):.3g}" for x in _ln_sigmas(objective, middles)]


def _ln_sigmas(objective: Objective, normals: Sequence[float]) -> list[float]:
    """ln σ at some standard normal numbers, in float64."""
    values: list[float] = objective.ln_sigma(torch.tensor(normals, dtype=torch.float64)).tolist()
    return values
