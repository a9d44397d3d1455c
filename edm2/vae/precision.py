"""The precision in which the VAE is fastest."""

from pathlib import Path

import torch

from edm2.params import Params
from edm2.runtime.distributed import ranks
from edm2.runtime.precision import TimedRun, ramp, resolve_precision
from edm2.vae.network import Autoencoder


def vae_precision(params: Params, state: Path, device: torch.device) -> Params:
    """`params` with the precision that `runtime.precision: auto` stands for in a run that trains the VAE.

    Args:
        state: folder where the run keeps its state.
    """
    vae, resolution = params.vae, params.dataset.resolution

    def make_run() -> TimedRun:
        with torch.random.fork_rng(devices=[]):  # without effect on what is initialized later
            network = Autoencoder(vae).to(device)
        if params.runtime.channels_last:
            network = network.to(memory_format=torch.channels_last)
        side = resolution // vae.downscale

        def run(dtype: torch.dtype, images: int) -> None:
            noise = ramp((images, vae.latent_channels, side, side), device)
            with torch.autocast(device.type, dtype, dtype != torch.float32):
                image, _, _ = network(ramp((images, 3, resolution, resolution), device), noise)
            image.float().sum().backward()

        return run

    images = vae.microbatch or vae.batch // ranks().world_size
    return resolve_precision(params, state, device, make_run, images)
