"""Small files in the formats and with the names of EDM2's authors, for `benchmarks/formats.py`."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_networks import LATENTS, random_denoiser, write_network
from published_pickles import EasyDict, StabilityVAEEncoder, pickled
from random_detectors import write_inception
from tiny import write_autoencoder

from edm2.diffusion import Denoiser
from edm2.vae.stable_diffusion import PAPER

CLASSES, IMAGES, SIDE = 10, 40, 64
NAMES = {0.05: "edm2-img512-xs-0134217-0.050.pkl", 0.10: "edm2-img512-xs-0134217-0.100.pkl"}
EIGHT_TIMES = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def pixels() -> np.ndarray:
    """Images uint8 [N, R, R, 3]."""
    return np.random.default_rng(0).integers(256, size=(IMAGES, SIDE, SIDE, 3), dtype=np.uint8)


def latents() -> np.ndarray:
    """Means and standard deviations float32 [N, 8, R, R], of about the paper's constants."""
    rng, shape = np.random.default_rng(1), (IMAGES, 4, SIDE, SIDE)
    mean, std = (x.numpy()[:, None, None] for x in (PAPER.mean, PAPER.std))
    means = rng.normal(mean, std, shape)
    return np.concatenate([means, rng.uniform(0.001, 0.01, shape)], axis=1).astype(np.float32)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_zip(path: Path, ending: str, contents: list[bytes]) -> None:
    """Members and dataset.json as the authors' tool writes them; classes take turns."""
    names = [f"{k // 1000:05d}/{ending.format(k)}" for k in range(len(contents))]
    labels = [[name, k % CLASSES] for k, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(names, contents, strict=True):
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def write_files(patch: pytest.MonkeyPatch) -> dict[str, Denoiser]:
    """Write all files to the current folder; return the networks by name."""
    write_zip(Path("img512.zip"), "img{:08d}.png", [png(x) for x in pixels()])
    with zipfile.ZipFile("img512.zip") as archive:
        archive.extractall("img512")
    write_zip(Path("img512-sd.zip"), "img-mean-std-{:08d}.npy", [npy(x) for x in latents()])
    rng = np.random.default_rng(2)
    moments = {
        name: EasyDict(mu=rng.normal(size=dims), sigma=np.eye(dims) * 0.5)
        for name, dims in (("fid", 2048), ("fd_dinov2", 1024))
    }
    Path("img512.pkl").write_bytes(pickled(moments))
    patch.setenv("EDM2_CACHE", str(Path("cache").absolute()))
    write_autoencoder(Path("cache/sd-vae-ft-mse"), **EIGHT_TIMES)
    write_inception(Path("inception.pth"), patch)
    encoder = StabilityVAEEncoder(0.5 / PAPER.std.numpy(), -0.5 * (PAPER.mean / PAPER.std).numpy())
    networks = {}
    for seed, name in enumerate(NAMES.values()):
        networks[name] = random_denoiser(seed, **LATENTS)
        folder = Path("snapshots")
        folder.mkdir(exist_ok=True)
        write_network(folder / name, networks[name], encoder=encoder)
    for seed, name in (
        (3, "edm2-img64-s-1073741-0.075.pkl"),
        (4, "edm2-img64-xs-0134217-0.110.pkl"),
    ):
        networks[name] = random_denoiser(seed, resolution=64)
        write_network(Path(name), networks[name])
    return networks
