"""From image shards to latent shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from edm2.data.decoding import DamagedImageError
from edm2.data.images import PreparedImages
from edm2.data.latents import LatentMoments, latent_sample, write_latents
from edm2.data.passes import ahead
from edm2.data.shards import is_written
from edm2.runtime.distributed import ranks
from edm2.runtime.progress import Progress
from edm2.vae.codec import Codec

BATCH = 128


def encode_shards(
    codec: Codec,
    images: PreparedImages,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float16,
) -> list[str]:
    """Write one latent shard per image shard, under the same name; keep shards that exist.

    The shards are divided among the ranks. The moments of the latents are taken as they are stored, and
    kept in the records of the shards.

    Args:
        dtype: of the stored numbers, float16 or float32.

    Returns:
        what is wrong with the damaged images of this rank's shards; these shards are not written.
    """
    damaged: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    rank, size = ranks().rank, ranks().world_size
    shards = list(images.by_shard().items())[rank::size]
    missing = {name: indices for name, indices in shards if not is_written(folder / name)}
    progress = Progress("encode_latents", sum(map(len, missing.values())), "img")
    side = images.resolution // codec.downscale
    for name, indices in missing.items():
        moments = LatentMoments.empty((codec.channels, side, side))
        samples = _encode(codec, images, indices, device, dtype, moments, progress)
        try:
            write_latents(folder / name, moments, samples)
        except DamagedImageError as error:
            damaged += images.damaged(indices) or [str(error)]
    progress.close()
    return damaged


def _encode(
    codec: Codec,
    images: PreparedImages,
    indices: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    moments: LatentMoments,
    progress: Progress,
) -> Iterator[dict[str, str | bytes]]:
    """The samples of a shard; adds them to `moments`. The next images are read while some are encoded.

    Raises:
        DamagedImageError: an image cannot be decoded.
    """
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    for batch, (pixels, labels) in zip(batches, ahead(map(images.batch, batches)), strict=True):
        means, stds = (tensor.to(dtype) for tensor in codec.encode(pixels.to(device)))
        moments.update(means, stds)
        latents = zip(batch, means.cpu(), stds.cpu(), labels.tolist(), strict=True)
        for index, mean, std, label in latents:
            yield latent_sample(f"{index:08d}", mean, std, label, dtype)
        progress.advance(len(batch))
