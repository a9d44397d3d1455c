"""The precision in which a denoiser is fastest."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from edm2.data.latents import LatentShards, LatentSpace
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.inference import prepare_for_inference
from edm2.diffusion.setup import denoiser_for
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.runtime.distributed import ranks
from edm2.runtime.precision import TimedRun, ramp, resolve_precision, with_precision


def denoiser_precision(
    params: Params,
    config: ConfigName,
    latents: LatentSpace | LatentShards,
    state: Path,
    device: torch.device,
    *,
    trains: bool,
) -> Params:
    """`params` with the precision that `runtime.precision: auto` stands for in a run that trains the
    config's denoiser, or samples from it.

    Args:
        state: folder where the run keeps its state.
    """

    def make_run() -> TimedRun:
        fp32, classes = with_precision(params, "fp32"), len(latents.classes)
        with torch.random.fork_rng(devices=[]):  # without effect on what is initialized later
            denoiser = denoiser_for(config, fp32, latents.shape, classes).to(device).eval()
        if not trains:
            return evaluation(denoiser, latents.shape, device)

        def run(dtype: torch.dtype, images: int) -> None:
            denoiser.dtype = dtype
            x, sigma = _inputs(images, latents.shape, device)
            denoiser(x, sigma).sum().backward()

        return run

    microbatch = params.diffusion.microbatch or params.diffusion.batch // ranks().world_size
    images = microbatch if trains else params.sampling.batch
    return resolve_precision(params, state, device, make_run, images)


def evaluation(denoiser: Denoiser, shape: tuple[int, int, int], device: torch.device) -> TimedRun:
    """An evaluation of a denoiser on `device`, as samplers need it, for data [C, R, R]."""

    @cache
    def prepared(dtype: torch.dtype) -> nn.Module:
        denoiser.dtype = dtype
        return prepare_for_inference(denoiser)

    def run(dtype: torch.dtype, images: int) -> None:
        prepared(dtype)(*_inputs(images, shape, device))

    return run


def _inputs(
    images: int, shape: tuple[int, int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    return ramp((images, *shape), device), torch.ones(images, device=device)
