"""From a source of latents to latent shards."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.data.latents import LatentMoments, dtype_name, latent_sample, write_latents
from edm2.data.preparation import IncompleteShard, ShardPlan, ShardProblems, write_shards
from edm2.data.prepared import ListedLatents
from edm2.data.sources.latents import FORM, DamagedLatentError, LatentSource, Shape
from edm2.params import UserError
from edm2.params.dataset import Dataset

TRIED = 100  # latents, of which one should have a shape


def require_shape(source: LatentSource, dataset: Dataset, shape: Shape, codec: str) -> None:
    """Compare the shape of the first latent that can be read with that of the codec's latents.

    Args:
        dataset: the params of the source.
        shape: C, H, W.
        codec: the codec in words.

    Raises:
        UserError: they differ.
    """
    expected = [2 * shape[0], *shape[1:]]
    for index in range(min(TRIED, len(source.labels))):
        with suppress(DamagedLatentError):
            found = list(source.file_shape(index))
            if found != expected:
                raise UserError(
                    f"dataset.path: {dataset.path}: has latents of shape {found}, expected {expected}, "
                    f"{FORM.format(shape[0])} of {codec} at dataset.resolution {dataset.resolution}. Set "
                    "codec to the one that made the latents, and dataset.resolution to the side of its "
                    "images in pixels."
                )
            return


def import_shards(
    latents: ListedLatents, folder: Path, shape: Shape, dtype: torch.dtype, workers: int | None
) -> list[str]:
    """Write the latents as shards, as `encode_shards` writes those of images; keep shards that exist.

    The shards are divided among the ranks, and among the worker processes of each.

    Args:
        shape: of a latent, C, H, W.
        dtype: of the stored numbers, float16 or float32.
        workers: processes of each rank; see `runtime.workers`.

    Returns:
        what is wrong with the damaged latents of this rank's shards; these shards are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = [(folder / name, np.array(part)) for name, part in latents.by_shard().items()]
    start = partial(_ShardWriter, latents, shape, dtype)
    written = write_shards(start, shards, shape[-1], workers, "encode_latents")
    return [message for _, problems in written for message in problems.damaged]


class _ShardWriter:
    """Writes shards in one process. Shards are given as positions in the list of the latents."""

    def __init__(self, latents: ListedLatents, shape: Shape, dtype: torch.dtype) -> None:
        self.latents, self.source = latents, latents.source
        self.shape, self.dtype = shape, dtype
        if parent_process() is not None:
            torch.set_num_threads(1)  # the threads of the process that was forked are not here

    def __call__(self, shard: ShardPlan) -> ShardProblems:
        path, numbers = shard
        problems, moments = ShardProblems(), LatentMoments.empty(self.shape)
        with suppress(IncompleteShard):
            write_latents(path, moments, self._samples(numbers, moments, problems.damaged))
        return problems

    def _samples(
        self, numbers: NDArray[np.int64], moments: LatentMoments, damaged: list[str]
    ) -> Iterator[dict[str, str | bytes]]:
        """The samples of a shard, whose numbers are added to `moments`.

        Raises:
            IncompleteShard: after the last latent, if there are damaged ones.
        """
        for number, index in zip(numbers, self.latents.indices[numbers], strict=True):
            try:
                mean, std = self._stored(index)
            except DamagedLatentError as error:
                damaged.append(str(error))
            else:
                moments.update(mean[None], std[None])
                label = int(self.source.labels[index])
                yield latent_sample(f"{number:08d}", mean, std, label, self.dtype)
        if damaged:
            raise IncompleteShard

    def _stored(self, index: int) -> torch.Tensor:
        """Mean and std [2, C, H, W] as they are stored. Raises DamagedLatentError."""
        values = torch.from_numpy(self.source.latent(index, self.shape).copy())
        largest = max(float(values.max()), -float(values.min()))
        if largest > torch.finfo(self.dtype).max:
            raise DamagedLatentError(
                f"{self.source.latent_name(index)}: has numbers up to {largest:g}, too large for "
                f"{dtype_name(self.dtype)} (set latents.dtype to float32)"
            )
        return values.to(self.dtype)
