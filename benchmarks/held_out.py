"""Cost of held-out metrics, and of SSIM beside scikit-image's.

`python benchmarks/held_out.py [--resolution 512] [--images 32] [--counts 500 1000 2000]` prints CPU
milliseconds per image of SSIM alone and of all held-out metrics, each with scikit-image's SSIM of one
image after another and with that of edm2, and the largest difference of the two. Then peak memory at
several counts of images, each in its own process. Images are random, of smooth colors with noise; the
codec averages 8×8 pixels, so that nearly all time is that of metrics.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pandas as pd
import torch
from measurement import peak_gib, run_in_own_process
from PIL import Image

import edm2.vae.evaluation
from edm2.data.images import ImageDataset, to_float, to_uint8
from edm2.features.classifier import Classifier
from edm2.vae.codec import Rgb
from edm2.vae.similarity import structural_similarity

CELL = 8  # pixels that the codec averages, along each side
MEMORY_RESOLUTION = 64
CPU = torch.device("cpu")


class RandomImages(ImageDataset):
    """Image i is the same whenever it is read."""

    crop = "lanczos"

    def __init__(self, count: int, resolution: int) -> None:
        self.count, self.resolution = count, resolution

    def __len__(self) -> int:
        return self.count

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        rng, side = np.random.default_rng(index), self.resolution
        colors = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        smooth = np.asarray(colors.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255)
        return Image.fromarray(pixels.astype(np.uint8)), 0


class Averages(Rgb):
    """Latents are images averaged over cells."""

    downscale = CELL

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.nn.functional.avg_pool2d(to_float(images), CELL)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(torch.nn.functional.interpolate(latents, scale_factor=CELL))


def one_by_one(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM of each pair of images by scikit-image."""
    from skimage.metrics import structural_similarity as similarity

    pairs = zip(a.numpy(), b.numpy(), strict=True)
    return torch.tensor([similarity(x, y, channel_axis=0) for x, y in pairs])


def cpu_ms(function: Callable[[], Any], images: int) -> tuple[float, Any]:
    """CPU milliseconds per image, of all threads, and the result."""
    start = time.process_time()
    result = function()
    return (time.process_time() - start) * 1000 / images, result


def evaluate(images: ImageDataset) -> dict[str, float]:
    backbone = Classifier(4, 2, 16, 10, images.resolution).eval().requires_grad_(False)
    return edm2.vae.evaluation.evaluate(Averages("dataset"), images, backbone, CPU)


def compare(images: ImageDataset) -> pd.DataFrame:
    codec, count = Averages("dataset"), len(images)
    pixels, _ = images.batch(range(count))
    decoded = codec.decode(codec.encode(pixels)[0])
    rows = []
    for name, similarity in (("scikit-image", one_by_one), ("edm2", structural_similarity)):
        edm2.vae.evaluation.structural_similarity = similarity
        similarity(pixels[:1], decoded[:1])  # imports
        alone, values = cpu_ms(lambda s=similarity: s(pixels, decoded), count)
        whole, metrics = cpu_ms(lambda: evaluate(images), count)
        rows.append({"SSIM by": name, "SSIM": alone, "all metrics": whole, "ssim": metrics["ssim"]})
        difference = (values - structural_similarity(pixels, decoded)).abs().max()
        rows[-1]["largest difference"] = float(difference)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--counts", type=int, nargs="*", default=[500, 1000, 2000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_at:
        evaluate(RandomImages(args.memory_at, MEMORY_RESOLUTION))
        print(json.dumps({"peak GiB": peak_gib()}))
        return
    print(f"CPU milliseconds per image of {args.resolution}x{args.resolution}")
    table = compare(RandomImages(args.images, args.resolution))
    print(table.to_string(index=False, float_format="{:.6g}".format))
    rows = [
        {"images": n, **run_in_own_process(__file__, ["--memory-at", str(n)], f"{n} images")}
        for n in args.counts
    ]
    if rows:
        print(f"\nAll metrics of images of {MEMORY_RESOLUTION}x{MEMORY_RESOLUTION}")
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
