"""The images that the `prepare` stage wrote, or listed if they are not stored (`dataset.stored`)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic_core import to_json

from edm2.data.decoding import DamagedImageError
from edm2.data.images import ImageShards, PreparedImages
from edm2.data.preparation import describe_images
from edm2.data.sources import LabeledSource, LatentSource, Source, open_source
from edm2.data.splits import shard_ranges
from edm2.data.tally import Tally
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.runtime.distributed import on_main_process
from edm2.runtime.files import replacing
from edm2.runtime.manifest import load_manifest, verified

T = TypeVar("T")
CONTENTS, LATENTS = "contents", "latents"  # in the manifest, if there are latents and no images
PREPARE_AGAIN = "run `dvc repro -f -s prepare`, then `dvc repro`"


def open_images(folder: Path, *splits: str) -> list[PreparedImages]:
    """The images of each of these splits, from the shards in `folder` or from the source.

    Every rank must call this: the main process says what there is, and opens the source for all.

    Raises:
        UserError: see `Shards`; or the images of the source are not those that were listed; or there are
            only latents.
    """
    manifest = on_main_process(lambda: load_manifest(folder))
    if manifest.get(CONTENTS) == LATENTS:
        raise UserError(
            f"{folder}: has no images: dataset.source {manifest['source']} has only latents. Set "
            "dataset to a source of images, for what needs images."
        )
    if "dataset" not in manifest:
        return [ImageShards(folder, split) for split in splits]
    dataset, opened = _open_listed(folder, manifest)
    source = cast(Source, opened)
    return [
        SourceImages(source, dataset, split, np.load(verified(folder / f"{split}.npy")))
        for split in splits
    ]


def has_images(folder: Path) -> bool:
    """Whether the stage `prepare` had images, and not only latents; every rank must call this."""
    return bool(on_main_process(lambda: load_manifest(folder).get(CONTENTS)) != LATENTS)


def open_latents(folder: Path) -> "ListedLatents":
    """The latents that were listed, all to train on; every rank must call this.

    Raises:
        UserError: the latents of the source are not those that were listed.
    """
    manifest = on_main_process(lambda: load_manifest(folder))
    dataset, source = _open_listed(folder, manifest)
    indices = np.load(verified(folder / "train.npy"))
    return ListedLatents(cast(LatentSource, source), indices, dataset)


def _open_listed(folder: Path, manifest: Mapping[str, Any]) -> tuple[Dataset, LabeledSource]:
    """The params of the source and the source, if its identity is that of what was listed."""
    dataset = Dataset.model_validate_json(to_json(manifest["dataset"]))
    what = "images" if dataset.has_images else "latents"

    def open_it() -> LabeledSource:
        source: Any = open_source(dataset)
        if hasattr(source, "doubtful"):
            source.doubtful = (
                Tally()
            )  # without what the scan finds, which the stage prepare printed
        if identity_sha256(source) != manifest["identity"]:
            copies = " With dataset.stored: true their copies do not change." * dataset.has_images
            raise UserError(
                f"{folder}: the {what} of dataset.source {dataset.source} are not those that the stage "
                f"prepare listed: {what} were added, removed or changed. To use them as they are now, "
                f"{PREPARE_AGAIN}.{copies}"
            )
        return cast(LabeledSource, source)

    return dataset, on_main_process(open_it)


def list_images(source: LabeledSource, folder: Path, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Write which images, or latents, of the source are in each split, `train.npy` and `held_out.npy`.

    Returns:
        metadata for the manifest, from which `open_images` opens the source again, or `open_latents`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = dict(zip(("train", "held_out"), source.split(dataset.held_out, seed), strict=True))
    for split, indices in splits.items():
        with replacing(folder / f"{split}.npy") as partial, partial.open("wb") as file:
            np.save(file, indices)
    return {
        **describe_images(source, dataset, splits),
        "dataset": dataset.model_dump(mode="json"),
        "identity": identity_sha256(source),
        **({} if dataset.has_images else {CONTENTS: LATENTS}),
    }


def identity_sha256(source: LabeledSource) -> str:
    """Checksum of `Source.identity`, which is long for some sources."""
    return hashlib.sha256(source.identity().encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class ListedLatents:
    """The latents of a source, in the order of their shards.

    Attributes:
        indices: of the latents in the source.
        after_repair: what to do when damaged ones were replaced.
    """

    source: LatentSource
    indices: NDArray[np.int64]
    dataset: Dataset
    after_repair: str = PREPARE_AGAIN

    def __len__(self) -> int:
        return len(self.indices)

    def by_shard(self) -> dict[str, range]:
        """Their positions in each shard, by the shard's file name."""
        return shard_ranges("train", len(self), self.dataset.shard_images)


class SourceImages(PreparedImages):
    """One split of a source: the same images and labels in the same order as in its shards."""

    after_repair = PREPARE_AGAIN  # the source has changed then

    def __init__(
        self, source: Source, dataset: Dataset, split: str, indices: NDArray[np.int64]
    ) -> None:
        """`indices` are those of the split's images in the source."""
        self.source, self.split, self.indices = source, split, indices
        self.classes, self.shard_images = list(source.classes), dataset.shard_images
        self.resolution, self.crop = dataset.resolution, dataset.crop
        self.doubtful = getattr(source, "doubtful", Tally())

    def __len__(self) -> int:
        return len(self.indices)

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        """Raises DamagedImageError."""
        number = int(self.indices[index])
        return Image.fromarray(self.source.image(number)), int(self.source.labels[number])

    def by_shard(self) -> dict[str, range]:
        return shard_ranges(self.split, len(self), self.shard_images)

    def _map(self, read: Callable[..., T], *items: Iterable[object]) -> list[T]:
        try:
            return super()._map(read, *items)
        except DamagedImageError as error:
            raise DamagedImageError(
                f"{error}. Replace or remove it, then {self.after_repair}. Images that are not stored "
                "(dataset.stored) are found damaged when they are read; `encode_latents` and `reference` "
                "list all that are."
            ) from None
