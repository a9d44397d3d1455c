"""CPU time of preparing an image or importing a latent, and the speed-up of worker processes.

`python benchmarks/ingest.py` makes synthetic JPEGs of ImageNet's typical size (500×375), prepares them
with one worker process and with several, and compares the shards. With `--latents` it makes latents of
such images, of 4 channels, as EDM2 stores them, and imports these. Run it on an idle machine.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from edm2.data.dataset_zip import member_of, write_dataset_zip
from edm2.data.latent_import import import_shards
from edm2.data.preparation import prepare_images
from edm2.data.prepared import ListedLatents
from edm2.data.sources import open_source
from edm2.params import load
from edm2.params.dataset import Dataset
from edm2.runtime.workers import cores

WIDTH, HEIGHT, CLASSES, QUALITY = 500, 375, 10, 90
CHANNELS, DOWNSCALE = 4, 8  # of latents
SHARDS = 32  # so that no worker waits long for the last ones


def make_images(folder: Path, count: int) -> None:
    """JPEGs of smooth colors with a camera's noise, in folders of classes."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    for number in range(count):
        corners = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
        smooth = np.asarray(corners.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        shifted = np.roll(noise, rng.integers(0, HEIGHT, 2).tolist(), (0, 1))
        path = folder / f"class{number % CLASSES}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(smooth + shifted, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=QUALITY)


def make_latents(path: Path, count: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2 * shape[0], *shape[1:]), np.float32)
    write_dataset_zip(path, (member_of(k, values, k % CLASSES) for k in range(count)))


def measure(source: Any, dataset: Dataset, out: Path, workers: int, side: int) -> dict[str, float]:
    """CPU time of this process and its workers, and of the clock; the scan is not included."""
    images = len(source.labels)
    start, cpu = time.perf_counter(), cpu_seconds()
    if dataset.has_images:
        prepare_images(source, out, dataset, 0, workers)
    else:
        latents = ListedLatents(source, source.split(None, 0)[0], dataset)
        import_shards(latents, out, (CHANNELS, side, side), torch.float16, workers)
    return {
        "workers": workers,
        "CPU ms/image": (cpu_seconds() - cpu) / images * 1000,
        "seconds": time.perf_counter() - start,
        "KiB/image": sum(path.stat().st_size for path in out.iterdir()) / images / 1024,
    }


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--latents", action="store_true", help="Import latents, 8 times smaller.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, cores()])
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root, rows = Path(temporary), []
        side, path = args.resolution // DOWNSCALE, root / "images"
        if args.latents:
            make_latents(path, args.images, (CHANNELS, side, side))
        else:
            make_images(path, args.images)
        changes = {
            "source": "latents" if args.latents else "folder",
            "path": str(path),
            "resolution": args.resolution,
            "crop": "adm",
            "shard_images": -(-args.images // SHARDS),
        }
        params = load(Path(__file__).parent.parent / "params.yaml")
        dataset = params.dataset.model_copy(update=changes)
        source = open_source(dataset)
        outs = [root / str(workers) for workers in args.workers]
        for out, workers in zip(outs, args.workers, strict=True):
            rows.append(measure(source, dataset, out, workers, side))
        contents = [{path.name: path.read_bytes() for path in out.iterdir()} for out in outs]
    table = pd.DataFrame(rows)
    table["speed-up"] = table["seconds"].iloc[0] / table["seconds"]
    print(table.to_string(index=False, float_format="{:.3g}".format))
    print("equal shards:", all(content == contents[0] for content in contents))


if __name__ == "__main__":
    main()
