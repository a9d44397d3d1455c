"""Tars and folders of small images, and a VAE that is trained on them in a second."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = (
    *("vae.channels=8", "vae.channel_mult=[1, 2]", "vae.res_blocks=1", "vae.norm_groups=2"),
    *("vae.attention=false", "vae.losses.pool=4", "vae.batch=8", "vae.microbatch=null"),
    *("vae.duration_nimg=64", "vae.log_nimg=16", "vae.warmup_nimg=16", "vae.evaluate_nimg=32"),
    *("vae.ema.snapshot_nimg=16", "vae.ema.evaluate_lengths=[0.05]"),
    *("runtime.device=cpu", "runtime.precision=fp32", "runtime.workers=0"),
)


def picture(seed: int, gray: bool = False) -> bytes:
    """A PNG of 40×36 pixels."""
    side = np.random.default_rng(seed).integers(0, 255, (5, 4) if gray else (5, 4, 3))
    buffer = io.BytesIO()
    Image.fromarray(side.astype(np.uint8)).resize((36, 40)).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, seeds: range, gray: bool = False) -> Path:
    with tarfile.open(path, "w") as tar:
        for seed in seeds:
            content = picture(seed, gray)
            member = tarfile.TarInfo(f"{seed:05d}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_pictures(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"{seed}.png").write_bytes(picture(seed))
    return folder
