"""A tiny denoiser and its training, without a project."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from edm2.diffusion.batches import Batch
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, prepare_training
from edm2.diffusion.training import Average, DenoiserTask
from edm2.params.configs import ConfigName
from edm2.params.diffusion import Diffusion, Overrides

CPU = torch.device("cpu")
RUNTIME = SimpleNamespace(workers=0, reading="random")  # batches are read by a thread
BATCH, CLASSES = 8, 3
TINY = {
    "batch": BATCH,
    "duration_nimg": 64,
    "log_nimg": 8,
    "magnitudes_nimg": 64,
    "magnitudes_of_average": False,
    "label_dropout": 0.0,
    "channels": 8,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "attention_resolutions": (4,),
    "conditional": True,
    "paper_dataset": "imagenet-512",
    "lr_ref": 0.01,
    "lr_decay_batches": 2.0,
    "lr_rampup_nimg": 2 * BATCH,
    "per_config": {},
}


class SummingAverage:
    """A fake average: the sum of the parameters over all updates, and the arguments of these."""

    def __init__(self, source: nn.Module) -> None:
        self.source, self.updates = source, []
        self.sums = [torch.zeros_like(p) for p in source.parameters()]

    def update(self, nimg: int, batch: int) -> None:
        self.updates.append((nimg, batch))
        for total, parameter in zip(self.sums, self.source.parameters(), strict=True):
            total += parameter.detach()

    def longest(self) -> dict[str, torch.Tensor]:
        names = (name for name, _ in self.source.unet.named_parameters())
        return dict(zip(names, self.sums, strict=False))

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = [total.clone() for total in state["sums"]]


def diffusion_params(overrides: dict[str, Any] | None = None, **changes: Any) -> Diffusion:
    """The values of `TINY` with changes; all other fields are null."""
    options = {**dict.fromkeys(Overrides.model_fields), **(overrides or {})}
    null = dict.fromkeys(Diffusion.model_fields)
    return Diffusion.model_validate({**null, **TINY, "overrides": options, **changes})


def make_denoiser(
    config: ConfigName, params: Diffusion, precision: str = "fp32", channels_last: bool = False
) -> Denoiser:
    """A denoiser for 4×8×8 latents, initialized as in the config; always with the same weights."""
    torch.manual_seed(0)
    runtime = SimpleNamespace(precision=precision, channels_last=channels_last)
    return denoiser_for(
        config, SimpleNamespace(diffusion=params, runtime=runtime), (4, 8, 8), CLASSES
    )


def perturb(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Add noise to all parameters: none stays zero, so every path carries a signal."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def make_task(
    config: ConfigName = "G",
    *,
    average: Average | None = None,
    precision: str = "fp32",
    channels_last: bool = False,
    perturbed: bool = True,
    data_parallel: str = "ddp",
    activation_checkpointing: bool = False,
    **changes: Any,
) -> DenoiserTask:
    """A training task, by default with perturbed parameters; always the same one."""
    params = diffusion_params(**changes).of(config)
    denoiser = make_denoiser(config, params, precision, channels_last)
    if perturbed:
        perturb(denoiser)
    runtime = SimpleNamespace(
        data_parallel=data_parallel,
        activation_checkpointing=activation_checkpointing,
        compile=False,
        channels_last=channels_last,
    )
    prepare_training(denoiser, runtime, CPU)
    return DenoiserTask(denoiser, average or SummingAverage(denoiser), params, 1, CPU)


def make_batch(seed: int = 0, count: int = BATCH) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    data = 0.5 * torch.randn(count, 4, 8, 8, generator=rng)
    noise = torch.randn(count, 4, 8, 8, generator=rng)
    ln_sigma = torch.randn(count, generator=rng) - 0.4
    return data, noise, ln_sigma, torch.arange(count) % CLASSES


def weights(task: DenoiserTask) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in task.denoiser.named_parameters()}
