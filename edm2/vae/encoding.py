"""From image shards to latent shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from edm2.data.images import ImageShards
from edm2.data.latents import latent_sample
from edm2.data.shards import write_shard
from edm2.runtime.distributed import ranks
from edm2.runtime.progress import track
from edm2.vae.codec import Codec

BATCH = 128


def encode_shards(codec: Codec, images: ImageShards, folder: Path, device: torch.device) -> None:
    """Write one latent shard per image shard; those that are there are kept. Ranks share them."""
    folder.mkdir(parents=True, exist_ok=True)
    who = ranks()
    mine = list(images.shards.by_shard().items())[who.rank :: who.size]
    for name, items in track(mine, "encode_latents", len(mine), "shard"):
        if not (folder / name).exists():
            write_shard(folder / name, _encode(codec, images, items, device))


def _encode(
    codec: Codec, images: ImageShards, items: Sequence[int], device: torch.device
) -> Iterator[dict[str, str | bytes]]:
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        pixels, labels = images.batch(part)
        means, stds = (tensor.cpu() for tensor in codec.encode(pixels.to(device)))
        for item, mean, std, label in zip(part, means, stds, labels.tolist(), strict=True):
            yield latent_sample(f"{item:08d}", mean, std, label)
