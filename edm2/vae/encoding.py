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
    """Write one latent shard per image shard, under the same name; keep shards that exist.

    The shards are divided among the ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, size = ranks().rank, ranks().world_size
    shards = list(images.shards.by_shard().items())[rank::size]
    for name, indices in track(shards, "encode_latents", len(shards), "shard"):
        if not (folder / name).exists():
            write_shard(folder / name, _encode(codec, images, indices, device))


def _encode(
    codec: Codec, images: ImageShards, indices: Sequence[int], device: torch.device
) -> Iterator[dict[str, str | bytes]]:
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        pixels, labels = images.batch(batch)
        means, stds = (tensor.cpu() for tensor in codec.encode(pixels.to(device)))
        for index, mean, std, label in zip(batch, means, stds, labels.tolist(), strict=True):
            yield latent_sample(f"{index:08d}", mean, std, label)
