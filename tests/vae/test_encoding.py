"""From image shards to latent shards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2.data.decoding import DamagedImageError
from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards, latent_metadata
from edm2.params.vae import Vae
from edm2.runtime.distributed import Ranks
from edm2.runtime.manifest import write_manifest
from edm2.vae.codec import TrainedVae
from edm2.vae.encoding import encode_shards
from edm2.vae.network import Autoencoder

CPU = torch.device("cpu")


@pytest.fixture
def codec(tiny: Callable[..., Vae]) -> TrainedVae:
    torch.manual_seed(0)
    return TrainedVae(Autoencoder(tiny()).eval(), tiny())


def contents(folder: Path) -> dict[str, bytes]:
    """The tars in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latents_are_the_codecs_as_they_are_stored(codec, images, tmp_path: Path, dtype) -> None:
    folder = tmp_path / "latents"
    encode_shards(codec, images, folder, CPU, dtype)
    write_manifest(folder, classes=images.classes, **latent_metadata(folder, dtype=dtype))
    latents = LatentShards(folder, "train")
    pixels, labels = images.batch(range(12))
    mean, std, latent_labels = latents.batch(range(12))
    for actual, expected in zip((mean, std), codec.encode(pixels), strict=True):
        assert actual.dtype == dtype
        assert torch.equal(actual, expected.to(dtype))
    assert torch.equal(latent_labels, labels)
    assert latents.shape == (2, 4, 4)
    assert [p.name for p in latents.shards.paths] == [p.name for p in images.shards.paths]


def test_existing_shards_are_kept(codec, images: ImageShards, tmp_path: Path) -> None:
    """After a kill at any time, the files and moments are those of a run without."""
    folder = tmp_path / "latents"
    encode_shards(codec, images, folder, CPU)
    whole, metadata = contents(folder), latent_metadata(folder)
    (folder / "train-000001.tar").unlink()  # what a kill leaves: a record, but no shard
    (folder / "train-000002.tar").unlink()
    (folder / "train-000002.tar.record.json").unlink()
    kept = (folder / "train-000000.tar").stat().st_mtime_ns
    encode_shards(codec, images, folder, CPU)
    assert contents(folder) == whole
    assert latent_metadata(folder) == metadata
    assert (folder / "train-000000.tar").stat().st_mtime_ns == kept


def test_mean_and_std_are_those_of_the_stored_latents(codec, images, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    encode_shards(codec, images, folder, CPU)
    metadata = latent_metadata(folder)
    write_manifest(folder, classes=images.classes, **metadata)
    mean, std, _ = (x.double().numpy() for x in LatentShards(folder, "train").batch(range(12)))
    total = np.sqrt((std**2).mean(axis=(0, 2, 3)) + mean.var(axis=(0, 2, 3)))
    assert metadata["shape"] == list(mean.shape[1:])
    np.testing.assert_allclose(metadata["mean"], mean.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(metadata["std"], total, rtol=1e-6)


def test_the_batch_size_does_not_change_latents(
    codec, images: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_shards(codec, images, tmp_path / "whole", CPU)
    monkeypatch.setattr("edm2.vae.encoding.BATCH", 2)
    encode_shards(codec, images, tmp_path / "parts", CPU)
    whole, parts = (latent_metadata(tmp_path / name) for name in ("whole", "parts"))
    assert parts["shape"] == whole["shape"]
    for key in ("mean", "std"):
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-3)


def test_ranks_divide_the_shards(
    codec, images: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they write the files and find the moments of one rank."""
    encode_shards(codec, images, tmp_path / "one", CPU)
    written: list[set[str]] = []
    for rank in range(2):
        monkeypatch.setattr("edm2.vae.encoding.ranks", lambda rank=rank: Ranks(rank, 2, rank))
        encode_shards(codec, images, tmp_path / "two", CPU)
        written.append({path.name for path in (tmp_path / "two").glob("*.tar")})
    assert 0 < len(written[0]) < len(written[1]) == len(images.shards.paths)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert latent_metadata(tmp_path / "two") == latent_metadata(tmp_path / "one")


class Damaged(ImageShards):
    """Images 5 and 7 of the second shard (4 to 7) cannot be decoded."""

    def load_image(self, index):
        if index in (5, 7):
            raise DamagedImageError(f"{index}.png: damaged")
        return super().load_image(index)


def test_a_shard_with_damaged_images_is_not_written(codec, images, tmp_path: Path) -> None:
    damaged = Damaged(images.shards.folder, "train")
    texts = encode_shards(codec, damaged, tmp_path / "part", CPU)
    assert texts == ["5.png: damaged", "7.png: damaged"]
    names = {path.name for path in images.shards.paths}
    assert set(contents(tmp_path / "part")) == names - {"train-000001.tar"}
    assert encode_shards(codec, images, tmp_path / "part", CPU) == []  # they were replaced
    encode_shards(codec, images, tmp_path / "whole", CPU)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
