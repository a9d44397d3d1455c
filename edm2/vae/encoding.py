"""From image shards to latent shards."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from edm2.data.damage import IncompleteShard
from edm2.data.decoding import DamagedImageError
from edm2.data.images import PreparedImages
from edm2.data.latents import latent_sample
from edm2.data.shards import write_shard
from edm2.runtime.distributed import ranks
from edm2.runtime.progress import track
from edm2.vae.codec import Codec

BATCH = 128


def encode_shards(
    codec: Codec, images: PreparedImages, folder: Path, device: torch.device
) -> list[str]:
    """Write one latent shard per image shard, under the same name; keep shards that exist.

    The shards are divided among the ranks.

    Returns:
        what is wrong with the damaged images of this rank's shards; these shards are not written.
    """
    damaged: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    rank, size = ranks().rank, ranks().world_size
    shards = list(images.by_shard().items())[rank::size]
    for name, indices in track(shards, "encode_latents", len(shards), "shard"):
        if not (folder / name).exists():
            with suppress(IncompleteShard):
                write_shard(folder / name, _encode(codec, images, indices, device, damaged))
    return damaged


def _encode(
    codec: Codec,
    images: PreparedImages,
    indices: Sequence[int],
    device: torch.device,
    damaged: list[str],
) -> Iterator[dict[str, str | bytes]]:
    """The latents of a shard. Messages about damaged images are appended to `damaged`.

    Raises:
        IncompleteShard: there are damaged images; the others are not encoded.
    """
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        try:
            pixels, labels = images.batch(batch)
        except DamagedImageError:
            damaged += images.damaged(indices[start:])
            raise IncompleteShard from None
        means, stds = (tensor.cpu() for tensor in codec.encode(pixels.to(device)))
        for index, mean, std, label in zip(batch, means, stds, labels.tolist(), strict=True):
            yield latent_sample(f"{index:08d}", mean, std, label)
