"""Paths of the stages' results, relative to the project root."""

from pathlib import Path

from edm2.params.replicates import Replicate

IMAGES = Path("data/images")
LATENTS = Path("data/latents")
REFERENCE = Path("data/reference")
FEATURES = Path("models/features")
VAE = Path("models/vae")
VAE_SNAPSHOTS = Path("models/vae_snapshots")  # of averages of its weights
LATENT_MOMENTS = Path("reports/vae/latents.json")  # of `edm2 vae train`

AVERAGES = "averages.json"  # beside the averages of `edm2 ema reconstruct`


def training_folder(replicate: Replicate) -> Path:
    """Snapshots and final weights of a training."""
    return Path("models/diffusion") / str(replicate)


def guide_folder(replicate: Replicate) -> Path:
    """Snapshots of the network that guides a training's."""
    return Path("models/guide") / str(replicate)


def store_folder(replicate: Replicate) -> Path:
    """The snapshot store of a training."""
    return Path("models/ema") / str(replicate)


def sweep_folder(replicate: Replicate) -> Path:
    """The networks of a training's sweep."""
    return Path("models/sweep") / str(replicate)


def samples_folder(replicate: Replicate) -> Path:
    """Sample grids of a training."""
    return Path("reports/samples") / str(replicate)
