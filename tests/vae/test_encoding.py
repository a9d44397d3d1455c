"""From image shards to latent shards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_latents_are_the_codecs_in_16_bits(codec, images, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    encode_shards(codec, images, folder, CPU)
    write_manifest(folder, classes=images.classes, **latent_metadata(folder))
    latents = LatentShards(folder, "train")
    pixels, labels = images.batch(range(12))
    mean, std, latent_labels = latents.batch(range(12))
    for actual, expected in zip((mean, std), codec.encode(pixels), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2**-10, atol=1e-5)
    assert torch.equal(latent_labels, labels)
    assert latents.shape == (2, 4, 4)
    assert set(contents(folder)) == {path.name for path in images.shards.paths}


def test_existing_shards_are_kept(codec, images: ImageShards, tmp_path: Path) -> None:
    encode_shards(codec, images, tmp_path / "whole", CPU)
    (tmp_path / "part").mkdir()
    (tmp_path / "part/train-000001.tar").write_bytes(b"complete")
    encode_shards(codec, images, tmp_path / "part", CPU)
    expected = {**contents(tmp_path / "whole"), "train-000001.tar": b"complete"}
    assert contents(tmp_path / "part") == expected


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


def test_shards_are_divided_among_ranks(
    codec, images: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = []
    for rank in range(2):
        monkeypatch.setattr("edm2.vae.encoding.ranks", lambda rank=rank: Ranks(rank, 2, rank))
        encode_shards(codec, images, tmp_path / str(rank), CPU)
        shards.append(set(contents(tmp_path / str(rank))))
    assert shards[0] | shards[1] == {path.name for path in images.shards.paths}
    assert not shards[0] & shards[1]
