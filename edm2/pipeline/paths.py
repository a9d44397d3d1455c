"""Paths of the stages' results, relative to the project root."""

from pathlib import Path

IMAGES = Path("data/images")
LATENTS = Path("data/latents")
REFERENCE = Path("data/reference")
FEATURES = Path("models/features")
VAE = Path("models/vae")


def training_folder(config: str) -> Path:
    """Snapshots and final weights of a training."""
    return Path("models/diffusion") / config


def guide_folder(config: str) -> Path:
    """Snapshots of the network that guides a config."""
    return Path("models/guide") / config


def store_folder(config: str) -> Path:
    """The snapshot store of a config."""
    return Path("models/ema") / config


def sweep_folder(config: str) -> Path:
    """The networks of a config's sweep."""
    return Path("models/sweep") / config


def samples_folder(config: str) -> Path:
    """Sample grids of a config."""
    return Path("reports/samples") / config
